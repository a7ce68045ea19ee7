"""What a finished run leaves behind, in a form that other programs read."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fedward.models import flat
from fedward.models.judged import JUDGED, packed
from fedward.models.registry import build
from fedward.models.tasks.any_task import Sums
from fedward.models.tasks.figures import shown
from fedward.models.travelling import travelling
from fedward.server.durable import write_aside, write_json
from fedward.server.evaluated import write_evaluated
from fedward.server.events import Outcome, RoundLost
from fedward.study.study import Study

_PACKAGES = ("fedward", "flwr", "torch", "opacus", "numpy")

COLUMNS = ("round", "seconds", "hospitals", "part", "records")
"""Of `rounds.csv`; the foremost metrics of the task follow."""


def write_results(
    study: Study, outcome: Outcome, folder: Path, *, models: Path | None = None
) -> None:
    """Model, rounds and figures of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(study, outcome, folder / "model.safetensors", models=models)
    write_rounds(outcome, folder / "rounds.csv")
    write_judged(study, {f"federated.{part}": sums for part, sums in outcome.sums.items()}, folder)
    write_evaluated(study, outcome.on_test, outcome.threshold, folder)
    more: dict[str, Any] = {} if outcome.personal is None else {"personal": outcome.personal}
    if outcome.noise is not None:
        more["evaluation_noise"] = outcome.noise
    if outcome.early_stopping is not None:
        more["early_stopping"] = outcome.early_stopping
    document = {"study": study.digest(), "test": outcome.test, "seconds": outcome.seconds}
    write_json({**document, **more, "versions": _versions()}, folder / "federation.json")


def _versions() -> dict[str, str]:
    """Of what trained the model at the aggregator."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def write_judged(study: Study, sums: Mapping[str, Sums], folder: Path) -> None:
    """The sums that the figures of one model or several were computed from, by `model.part`."""
    write_aside(folder / JUDGED, packed(sums, study.digest()))


def write_model(study: Study, outcome: Outcome, path: Path, *, models: Path | None = None) -> None:
    """The final model as safetensors, with the study's digest and classes in its metadata.

    Where some weights are each hospital's own, the file holds the others; of a pretrained model
    only what was trained: the rest is in the folder that it came from.
    """
    model = build(study, seed=0, models=models)
    everybodys = frozenset(travelling(study, model))
    flat.load(model, outcome.model, everybodys)
    staying = frozenset(flat.names(model)) - everybodys
    weights = {name: entry for name, entry in flat.named(model).items() if name not in staying}
    about: dict[str, Any] = {
        "study": study.study.name,
        "digest": study.digest(),
        "model": study.model.model_dump(mode="json"),
        "classes": study.task.classes,
        "threshold": outcome.threshold,
    }
    if staying:
        about["staying"] = sorted(staying)
    if outcome.scaling is not None:
        about["scaling"] = outcome.scaling
    # One key: safetensors writes several in any order, and a run would not repeat to the byte.
    write_aside(path, save(weights, metadata={"fedward": json.dumps(about)}))


def write_rounds(outcome: Outcome, path: Path) -> None:
    """A CSV row for 0, 1, ... finished rounds: the model's metrics after that many."""
    lines = io.StringIO(newline="")
    wanted = shown(outcome.test)
    figures = [name for name in outcome.test if name in wanted] or wanted
    table = csv.DictWriter(lines, [*COLUMNS, *figures], extrasaction="ignore")
    table.writeheader()
    for number, metrics in enumerate(outcome.curve):
        row: dict[str, Any] = {"round": number, "part": outcome.part, **(metrics or {})}
        if number:
            record = outcome.rounds[number - 1]
            answered = 0 if isinstance(record, RoundLost) else record.answered
            row |= {"seconds": f"{record.seconds:.4f}", "hospitals": answered}
        table.writerow(row)
    write_aside(path, lines.getvalue().encode())
