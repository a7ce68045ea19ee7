"""What the folder of a finished run tells, of a simulation or of an aggregator's registry.

An aggregator knows less than a simulation: what is not there is None or empty.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fedward.clinic.finished import MODEL, ModelFacts, read_agreed
from fedward.models.judged import JUDGED, read_judged
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums, Task
from fedward.privacy.model_log import Change, stage_of
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study

Metrics = dict[str, Any]
_Document = TypeVar("_Document", bound=BaseModel)


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Spent(_Read):
    """What a hospital's ledger says of its patients' privacy; see `result.json`."""

    epsilon: float | None
    delta: float | None


class Records(_Read):
    """Records of one hospital by part."""

    train: int
    validation: int
    test: int


class _Identity(_Read):
    digest: str


class _Metrics(_Read):
    federated: Metrics
    personal: Metrics | None = None
    pooled: Metrics | None = None
    local: dict[str, Metrics] = {}


class _Result(_Read):
    fedward: str
    study: _Identity
    seed: int
    metrics: _Metrics
    validation: Metrics | None
    epsilon_baselines: float | None
    privacy: dict[str, Spent]
    hospitals: dict[str, Records]
    failures: list[str]


class _Stopped(_Read):
    round: int
    trained: int


class _Noise(_Read):
    deviation: float


class _Federation(_Read):
    study: str
    test: Metrics
    seconds: float
    personal: Metrics | None = None
    evaluation_noise: _Noise | None = None
    early_stopping: _Stopped | None = None
    versions: dict[str, str] = {}


class Estimate(_Read):
    """A figure with its interval; see `evaluation.json`."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Judged(_Read):
    """Everybody, or a cell of a subgroup; `patients` is a word where they are hidden."""

    subgroup: str
    cell: str
    patients: int | str
    figures: dict[str, Estimate]


class Evaluation(_Read):
    """Figures with intervals, and of subgroups."""

    study: str
    replicates: int
    fewest: int
    everybody: Judged
    cells: list[Judged]


class _Run(_Read):
    name: str
    seed: int
    created: str
    roster: int


@dataclass(frozen=True)
class Told:
    """A finished run.

    Attributes:
        folder: The run's.
        study: What was agreed on.
        facts: What the model file says of itself.
        task: The study's.
        model_digest: SHA-256 of the model's file.
        federation: What the aggregator found.
        result: What only a simulation knows; None of an aggregator's run.
        run: What only a registry knows; None of a simulation.
        rounds: Rows of `rounds.csv`.
        answered: In how many rounds each hospital was in the sum; empty where nobody wrote it down.
        sums: What the final figures are computed from, by `model.part`; None of an older run.
        stage: Where the model is in the registry around the folder; None if it is in none.
        evaluation: Figures with intervals and of subgroups; None where nobody asked for them.
    """

    folder: Path
    study: Study
    facts: ModelFacts
    task: Task
    model_digest: str
    federation: _Federation
    result: _Result | None
    run: _Run | None
    rounds: list[dict[str, str]]
    answered: dict[str, int]
    sums: dict[str, Sums] | None
    stage: Change | None
    evaluation: Evaluation | None

    @property
    def versions(self) -> dict[str, str]:
        """Of the software that ran; of older runs perhaps Fedward's alone, or none."""
        return self.federation.versions or (
            {} if self.result is None else {"fedward": self.result.fedward}
        )

    @property
    def seed(self) -> int | None:
        """Of the run; None where the folder does not tell."""
        known = self.result or self.run
        return None if known is None else known.seed

    @property
    def validation(self) -> Metrics | None:
        """The final model's metrics on the validation part."""
        if self.result is not None:
            return self.result.validation
        sums = (self.sums or {}).get("federated.validation")
        return None if sums is None else self.task.metrics(sums, self.facts.threshold)

    @property
    def models(self) -> dict[str, Metrics]:
        """Test metrics of every model by what people call it, the federated one first."""
        found = {"federated": self.federation.test}
        if self.federation.personal is not None:
            found["personal"] = self.federation.personal
        if self.result is not None:
            metrics = self.result.metrics
            found |= {} if metrics.pooled is None else {"pooled": metrics.pooled}
            found |= {f"only {name}": local for name, local in metrics.local.items()}
        return found


def read_told(folder: Path) -> Told:
    """Read the folder of a finished run.

    Raises:
        OptionError: It is no folder of a finished run.
        DataError: A file in it is damaged, or of another study, or the registry around it knows
            another model of this run.
        BrokenModelLog: The log of models of the registry around it does not fit.
        StudyError: The study does not hold with this version of Fedward.
    """
    study, facts, _ = read_agreed(folder)
    federation = _document(folder / "federation.json", _Federation)
    if federation is None:
        raise OptionError(
            "has no federation.json", todo="give the folder of a finished run", where=str(folder)
        )
    result = _document(folder / "result.json", _Result)
    evaluation = _document(folder / "evaluation.json", Evaluation)
    said = {"federation.json": federation.study}
    said |= {} if evaluation is None else {"evaluation.json": evaluation.study}
    said |= {} if result is None else {"result.json": result.study.digest}
    for name, digest in said.items():
        if digest != study.digest():
            raise DataError(
                "is of another study than study.toml beside it",
                todo="put back the files of one run",
                where=str(folder / name),
            )
    task, judged = task_of(study), folder / JUDGED
    model_digest = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    return Told(
        folder=folder,
        study=study,
        facts=facts,
        task=task,
        model_digest=model_digest,
        federation=federation,
        result=result,
        run=_document(folder / "run.json", _Run),
        rounds=_rounds(folder / "rounds.csv"),
        answered=_answered(folder / "events.jsonl"),
        sums=read_judged(judged, study.digest(), task.size) if judged.exists() else None,
        stage=stage_of(folder, model_digest),
        evaluation=evaluation,
    )


def _document(path: Path, kind: type[_Document]) -> _Document | None:
    """A JSON file; None if there is none."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise DataError(
            f"cannot be read ({type(error).__name__})",
            todo="put back the file of this run",
            where=str(path),
        ) from None


def _rounds(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"cannot be read ({type(error).__name__})",
            todo="put back the file of this run",
            where=str(path),
        ) from None


def _answered(path: Path) -> dict[str, int]:
    """Rounds that each hospital was in the sum of, as a registry's events say."""
    if not path.exists():
        return {}
    seen: set[tuple[str, int]] = set()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that a crash cut off stays a line of its own
            if isinstance(event, dict) and event.get("event") == "Answered":
                seen.add((str(event["hospital"]), int(event["round"])))
    except (OSError, KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"cannot be read ({type(error).__name__})",
            todo="put back the file of this run",
            where=str(path),
        ) from None
    return dict(sorted(Counter(hospital for hospital, _ in seen).items()))
