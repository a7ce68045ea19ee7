"""Where an exported model comes from and how its inputs are made: what its metadata say.

One JSON document under one key, `fedward`, in whatever place a format has for such things.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from fedward.clinic.finished import MODEL, Constants, Finished
from fedward.privacy.model_log import Stage, digest_of, stage_of
from fedward.privacy.schedule import epsilon_after
from fedward.study.errors import DataError, StudyError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.study import Study, parse_study
from fedward.study.version import VERSION

KEY = "fedward"
_RESULT = "result.json"


class Provenance(Frozen):
    """What an exported model says of itself.

    Attributes:
        study: The study's tables, less what only a simulation reads; `[data]` says how a record
            becomes numbers.
        digest: The study's.
        threshold: Probability from which a finding is called.
        scaling: Center and scale of each measured feature, where the run measured them.
        classes: Names of the classes, where the task has any.
        epsilon: The most that a hospital's patients lost, as the run's result has it; None where
            nothing was charged, or the folder does not know.
        epsilon_planned: Of a hospital that was in every round, where no ledger is there to ask;
            None where nothing was charged, or it depends on a hospital's patients.
        tried: `random` if the file was tried on random numbers only, for want of records.
        version: Of Fedward, that exported it.
        pruned: Share of the weights that was set to 0.
        quantized: `int8`, or None.
        stage: Where the run's model was in the aggregator's registry when it was exported:
            `candidate`, `approved` or `retired`; None if it is in none, or a hospital's own.
        weights: SHA-256 of the run's model file; None for a hospital's own, and in older exports.
    """

    study: dict[str, Any]
    digest: str
    threshold: float = Field(gt=0, lt=1)
    scaling: dict[str, Constants] | None = None
    classes: tuple[str, ...] = ()
    epsilon: float | None = None
    epsilon_planned: float | None = None
    tried: Literal["random"] | None = None
    version: str
    pruned: float = 0.0
    quantized: str | None = None
    stage: Stage | None = None
    weights: str | None = None

    def document(self) -> str:
        """As JSON, without what is not known."""
        return json.dumps(self.model_dump(mode="json", exclude_none=True), allow_nan=False)

    def contract(self, where: str) -> Study:
        """The study, which must have the digest.

        Args:
            where: The file, for the error.

        Raises:
            DataError: It is no study of this version, or another one than the digest says.
        """
        try:
            study = parse_study(self.study)
        except StudyError as error:
            raise DataError(
                f"holds a study that does not hold here ({error.line()})",
                todo=f"read it with Fedward {self.version}",
                where=where,
            ) from None
        if study.digest() != self.digest:
            raise DataError(
                "holds another study than its digest says", todo="export it again", where=where
            )
        return study


def provenance_of(
    run: Finished,
    *,
    pruned: float = 0.0,
    quantized: str | None = None,
    tried: Literal["random"] | None = None,
) -> Provenance:
    """What is to be said of a run's model.

    Raises:
        DataError: The run's `result.json` cannot be read, or the registry around its folder knows
            another model of this run.
        BrokenModelLog: The log of models of that registry does not fit.
    """
    result, rounds = run.folder / _RESULT, run.study.training.rounds
    tables = run.study.model_dump(mode="json", exclude={"simulation"}, exclude_none=True)
    return Provenance(
        study=tables,
        digest=run.facts.digest,
        threshold=run.facts.threshold,
        scaling=run.facts.scaling,
        classes=run.facts.classes,
        epsilon=_epsilon(result),
        epsilon_planned=None if result.is_file() else epsilon_after(run.study, rounds),
        tried=tried,
        version=VERSION,
        pruned=pruned,
        quantized=quantized,
        stage=_stage(run),
        weights=None if run.own else digest_of(run.folder / MODEL),
    )


def parse_provenance(text: str, where: str) -> Provenance:
    """Read what a model file says of itself.

    Args:
        text: The document.
        where: The file, for the error.

    Raises:
        DataError: It says nothing that can be understood.
    """
    try:
        found = validate(Provenance, json.loads(text))
    except (ValueError, RecursionError):
        found = Fault(KEY, "no JSON", "what fedward export writes")
    if isinstance(found, Fault):
        raise DataError(
            f"says of itself {found.key} = {found.given}; allowed: {found.allowed}",
            todo="give a file that fedward export wrote",
            where=where,
        )
    return found


def _stage(run: Finished) -> Stage | None:
    """Where the run's model is in the registry around its folder."""
    model = None if run.own else digest_of(run.folder / MODEL)
    found = None if model is None else stage_of(run.folder, model)
    return None if found is None else found.stage


def _epsilon(path: Path) -> float | None:
    """The largest epsilon of a simulation's result; None if there is no result, or no privacy."""
    if not path.is_file():
        return None
    try:
        spent = json.loads(path.read_text(encoding="utf-8"))["privacy"].values()
        known = [float(each["epsilon"]) for each in spent if each["epsilon"] is not None]
        if not all(0 <= epsilon < math.inf for epsilon in known):
            raise ValueError("no epsilon")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"cannot be read as a run's result ({type(error).__name__})",
            todo="take it from the run's folder again",
            where=str(path),
        ) from None
    return max(known, default=None)
