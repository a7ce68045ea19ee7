"""Every example in docs/data.md is one that is read, and every format has one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from fedward.client.data.reading import _READERS
from fedward.client.hospital import read_hospital
from fedward.study.study import parse_study
from tests.client.data.documented import BLOCK, BLOCKS, TEXT, WHOLE, of_a_hospital


@pytest.mark.parametrize("block", [block for block in BLOCKS if of_a_hospital(block)])
def test_an_example_of_a_hospital_is_one(tmp_path: Path, block: str) -> None:
    name = "" if block.startswith("name = ") else 'name = "north"\n'
    (tmp_path / "hospital.toml").write_text(name + block, encoding="utf-8")
    assert (
        read_hospital(tmp_path / "hospital.toml").data.format
        == tomllib.loads(block)["data"]["format"]
    )


@pytest.mark.parametrize("block", [block for block in BLOCKS if not of_a_hospital(block)])
def test_an_example_of_a_study_is_one(block: str) -> None:
    tables = tomllib.loads(block)
    if "data" not in tables or "kind" not in tables["data"]:
        assert tables.keys() <= {"data", "project"}, "what is it?"
        return
    assert parse_study({**WHOLE, **tables}).data.kind == tables["data"]["kind"]


def test_every_format_has_an_example() -> None:
    shown = {tomllib.loads(block)["data"]["format"] for block in BLOCKS if of_a_hospital(block)}
    assert shown == set(_READERS) - {"bundled"} | {"installed"}


def test_no_example_escapes_by_being_written_otherwise() -> None:
    rest = BLOCK.sub("", TEXT)
    assert not re.search(r"^\s*(kind|format) = ", rest, re.M)
