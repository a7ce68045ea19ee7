"""The examples of docs/data.md, as they stand there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

PAGE = Path(__file__).parents[3] / "docs" / "data.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```toml\n(.*?)^```", re.M | re.S)
BLOCKS = BLOCK.findall(TEXT)
WHOLE: dict[str, Any] = {
    "study": {"name": "documented"},
    "task": {"kind": "binary", "classes": ["no", "yes"]},
    "model": {"name": "any"},
    "training": {"rounds": 1, "local_epochs": 1, "batch_size": 2, "learning_rate": 0.1},
    "participation": {"hospitals": 3},
}
"""What an example of a study lacks."""


class Example(NamedTuple):
    """A hospital's file, and the study that stands above it.

    Attributes:
        study: Tables of the last study in the same section; empty if there is none.
        hospital: The file's text.
    """

    study: dict[str, Any]
    hospital: str


def of_a_hospital(block: str) -> bool:
    """Whether an example is one of hospital.toml."""
    return bool(re.search(r"^format = ", block, re.M))


def of_a_study(block: str) -> bool:
    """Whether an example is a study's data, with its kind."""
    return not of_a_hospital(block) and "kind" in tomllib.loads(block).get("data", {})


def examples() -> dict[str, Example]:
    """Every example of a hospital, by its section and format."""
    found: dict[str, Example] = {}
    for section in re.split(r"^##+ ", TEXT, flags=re.M)[1:]:
        heading, study = section.partition("\n")[0], {}
        for block in BLOCK.findall(section):
            if of_a_study(block):
                study = tomllib.loads(block)
            elif of_a_hospital(block):
                kind = tomllib.loads(block)["data"]["format"]
                title = f"{heading.partition(':')[0]}: {kind}"
                assert title not in found, "two examples of one section and format: which is it?"
                found[title] = Example(study, block)
    return found
