"""What a finished run leaves behind, in a form that other programs read."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from safetensors.torch import save

from fedward.models import flat
from fedward.models.registry import build
from fedward.models.tasks.figures import shown
from fedward.server.durable import write_aside, write_json
from fedward.server.events import Outcome, RoundLost
from fedward.study.study import Study

COLUMNS = ("round", "seconds", "hospitals", "part", "records")
"""Of `rounds.csv`; the foremost metrics of the task follow."""


def write_results(study: Study, outcome: Outcome, folder: Path) -> None:
    """Model, rounds and figures of a finished run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(study, outcome, folder / "model.safetensors")
    write_rounds(outcome, folder / "rounds.csv")
    noise = {} if outcome.noise is None else {"evaluation_noise": outcome.noise}
    write_json(
        {"study": study.digest(), "test": outcome.test, "seconds": outcome.seconds, **noise},
        folder / "federation.json",
    )


def write_model(study: Study, outcome: Outcome, path: Path) -> None:
    """The final model as safetensors, with the study's digest and classes in its metadata."""
    model = build(study, seed=0)
    flat.load(model, outcome.model)
    about: dict[str, Any] = {
        "study": study.study.name,
        "digest": study.digest(),
        "model": study.model.model_dump(mode="json"),
        "classes": study.task.classes,
        "threshold": outcome.threshold,
    }
    if outcome.scaling is not None:
        about["scaling"] = outcome.scaling
    # One key: safetensors writes several in any order, and a run would not repeat to the byte.
    write_aside(path, save(flat.named(model), metadata={"fedward": json.dumps(about)}))


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
