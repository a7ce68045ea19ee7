"""The model's card: Markdown with the front matter that Hugging Face reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fedward.clinic.report_words import METRICS, Page, number
from fedward.clinic.told import Told
from fedward.models.tasks.figures import shown
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.task import ClassTask, GenerationTask, RegressionTask, SegmentationTask
from fedward.study.token_data import TextData

# The last three: what GitHub and Hugging Face would make a link of by themselves.
_MEANT = re.compile(r"([\\`*_\[\]|#~$]|@|:(?=//)|(?<=www)\.)", re.IGNORECASE)
_AREAS = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def card_of(told: Told, page: Page) -> str:
    """The whole card.

    Args:
        told: The run.
        page: What the report says, and the card too.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # noqa: S701 - Markdown: what is put in is escaped by `_escaped`
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    others = {name: found for name, found in told.models.items() if name != "federated"}
    foremost = shown(told.federation.test)[0]
    return environment.get_template("model_card.md.jinja").render(
        page._asdict(),
        study=told.study,
        front=Markup(_front(told)),  # noqa: S704 - JSON, which no text of a study can leave
        foremost=METRICS[foremost],
        others=[(name, number(found.get(foremost))) for name, found in others.items()],
    )


def _front(told: Told) -> str:
    """The front matter: a key a line, its value in JSON, which is YAML too."""
    study = told.study
    kind = _pipeline(study)
    front: dict[str, Any] = {
        "library_name": "fedward",
        "tags": ["federated-learning", "medical", study.task.kind, study.data.kind],
        **({} if kind is None else {"pipeline_tag": kind}),
        "metrics": [
            name for name, value in told.federation.test.items() if _is_metric(name, value)
        ],
        "model-index": [{"name": study.study.name, "results": [_results(told, kind)]}],
    }
    if study.privacy.mode != "off":
        front["tags"].append("differential-privacy")
    return "\n".join(
        f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in front.items()
    )


def _results(told: Told, kind: str | None) -> dict[str, Any]:
    study = told.study
    words = f"test records of {study.participation.hospitals} hospitals"
    return {
        "task": {"type": kind or "other", "name": study.task.kind},
        "dataset": {"type": study.study.name, "name": words},
        "metrics": [
            {"type": name, "name": METRICS.get(name, name), "value": value}
            for name, value in told.federation.test.items()
            if _is_metric(name, value)
        ],
    }


def _is_metric(name: str, value: object) -> bool:
    return name not in {"records", "threshold", "events"} and isinstance(value, float)


def _pipeline(study: Study) -> str | None:
    """What Hugging Face calls such a task; None where it has no word."""
    match study.data, study.task:
        case ImageData(), ClassTask():
            return "image-classification"
        case ImageData(), SegmentationTask():
            return "image-segmentation"
        case ImageData(), GenerationTask():
            return "unconditional-image-generation"
        case TableData(), ClassTask():
            return "tabular-classification"
        case TableData(), RegressionTask():
            return "tabular-regression"
        case TextData(), ClassTask():
            return "text-classification"
    return None


def _escaped(value: object) -> object:
    """Text that Markdown shows as it stands."""
    if isinstance(value, Markup):
        return value
    plain = "".join(_AREAS.get(letter, letter) for letter in str(value))
    return _MEANT.sub(r"\\\1", " ".join(plain.split()))
