"""`evaluation.json`: figures with intervals, of everybody and of the study's subgroups.

Cells of too few patients are hidden before anything is written, and others with them where a
subtraction would give one away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from fedward.models.resampled import Resampled, interval, resampled_of
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums
from fedward.privacy.small_cells import Hidden, safe_cells
from fedward.server.durable import write_json
from fedward.study.study import Study

EVALUATION = "evaluation.json"
"""Name of the file in a run's folder."""

_NO_FIGURES = frozenset({"records", "events", "threshold"})
"""Counts, and what is chosen on validation: neither is estimated here."""

_NO_INTERVAL = frozenset({"calibration_error"})
"""Whose replicates are biased: drawn anew, a model always looks worse calibrated than it is."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(_Entry):
    """A figure, and the 95 % interval of its replicates.

    Attributes:
        value: None where it cannot be known.
        low: None where there is no interval.
        high: Likewise.
    """

    value: float | None
    low: float | None = None
    high: float | None = None


class Judged(_Entry):
    """Everybody, or one cell.

    Attributes:
        subgroup: As the study calls it; empty for everybody.
        cell: Likewise.
        patients: Of the test part, at all hospitals; or why they are hidden.
        records: None where they are hidden.
        figures: By the metric's name; none where they are hidden.
    """

    subgroup: str = ""
    cell: str = ""
    patients: int | Hidden
    records: int | None
    figures: dict[str, Estimate]


class Evaluated(_Entry):
    """The whole document. Version 1.

    Attributes:
        format: Its version.
        study: Digest of the study.
        part: That is judged.
        threshold: From which a finding is called; as the run chose it, on validation or before.
        replicates: Of the bootstrap.
        level: Of the intervals.
        fewest: A cell of fewer patients is hidden.
        everybody: All test records.
        cells: Of all subgroups, in the order of the study.
    """

    format: Literal[1] = 1
    study: str
    part: Literal["test"] = "test"
    threshold: float
    replicates: int
    level: float = 0.95
    fewest: int
    everybody: Judged
    cells: tuple[Judged, ...]


def evaluated(study: Study, sums: Sums, threshold: float) -> Evaluated | None:
    """What may be told of a judging on the test part; None where the study asks for nothing.

    Args:
        study: The run's.
        sums: All that was added up: of each judged model, then of the subgroups.
        threshold: The run's.
    """
    task = task_of(study)
    form = resampled_of(study, task)
    if form is None:
        return None
    taken = form.taken(sums[study.judged_models * task.size :])
    everybody = [sums[: task.size], *taken.cells]
    patients = _shown(form, taken.patients[1:], taken.elsewhere)
    rows = [
        Judged(
            subgroup=subgroup,
            cell=cell,
            patients=count,
            records=None if isinstance(count, Hidden) else round(float(own[0])),
            figures={} if isinstance(count, Hidden) else _figures(form, own, replicates, threshold),
        )
        for (subgroup, cell), count, own, replicates in zip(
            [("", ""), *form.table.cells],
            [round(float(taken.patients[0])), *patients],
            everybody,
            taken.replicates,
            strict=True,
        )
    ]
    return Evaluated(
        study=study.digest(),
        threshold=threshold,
        replicates=form.table.replicates,
        fewest=form.table.fewest,
        everybody=rows[0],
        cells=tuple(rows[1:]),
    )


def write_evaluated(study: Study, sums: Sums | None, threshold: float, folder: Path) -> None:
    """Write the table of a run whose study asks for one, and whose test part was judged."""
    if sums is None:
        return
    found = evaluated(study, sums, threshold)
    if found is not None:
        write_json(found.model_dump(mode="json"), folder / EVALUATION)


def _shown(form: Resampled, cells: Sums, elsewhere: Sums) -> list[int | Hidden]:
    """Each cell's patients, or why they are hidden; those of no cell count as a cell more."""
    found: list[int | Hidden] = []
    start = 0
    for number, (_, group) in enumerate(form.table.ordered):
        own = cells[start : start + len(group.names)]
        start += len(own)
        rest = [float(elsewhere[number])] if elsewhere[number] >= 1 else []  # 0 hides nobody
        counts = [float(count) for count in own]
        found += safe_cells([*counts, *rest], form.table.fewest)[: len(own)]
    return found


def _figures(
    form: Resampled, sums: Sums, replicates: Sums, threshold: float
) -> dict[str, Estimate]:
    values = _numbers(form.task.metrics(sums, threshold))
    drawn = [_numbers(form.task.metrics(each, threshold)) for each in replicates]
    found = {}
    for name, value in values.items():
        unsure = value is not None and name not in _NO_INTERVAL
        ends = interval([each.get(name) for each in drawn]) if unsure else None
        low, high = (None, None) if ends is None else ends
        found[name] = Estimate(value=value, low=low, high=high)
    return found


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures among metrics: single numbers that are estimated."""
    return {
        name: None if value is None or not math.isfinite(value) else float(value)
        for name, value in metrics.items()
        if name not in _NO_FIGURES and not isinstance(value, dict)
    }
