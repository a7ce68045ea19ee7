"""From raw labels, as a file has them, to what a task learns: see `study/task.py`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.faults import STRICT, Faults
from fedward.client.data.labels import Column, class_numbers, numbers_of
from fedward.study.any_data import label_text
from fedward.study.data import Data
from fedward.study.errors import DataError
from fedward.study.task import (
    ClassTask,
    GenerationTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SurvivalTask,
    Task,
)

Targets = NDArray[np.int64] | NDArray[np.float32]

_YES_OR_NO = {"0": 0.0, "1": 1.0, "false": 0.0, "true": 1.0, "no": 0.0, "yes": 1.0}


def targets(
    columns: Sequence[Column],
    data: Data,
    task: Task,
    *,
    where: str,
    rows: Sequence[int] | NDArray[np.int64],
    faults: Faults = STRICT,
) -> Targets:
    """The labels of n records, in the shape that the task has.

    Args:
        columns: The label's columns as the file has them, n values each; `task.label_columns` many.
        data: The study's data, which may say which raw labels mean a class.
        task: The study's.
        where: File and column, for the error.
        rows: Number of each record in its file, from 0.
        faults: Told of a label that cannot be; where it goes on, that is 0.

    Raises:
        DataError: A label cannot be; the message names the record.
        StudyError: The labels of this task are in no column (masks).
    """
    match task:
        case ClassTask():
            return class_numbers(columns[0], data, task, where=where, rows=rows, faults=faults)
        case MultilabelTask():
            each = [_yes_or_no(c, where=where, rows=rows, faults=faults) for c in columns]
            return np.stack(each, axis=1)
        case RegressionTask():
            return np.clip(
                _numbers(columns[0], where=where, rows=rows, faults=faults), *task.bounds
            )
        case SurvivalTask():
            times = _numbers(columns[0], where=where, rows=rows, faults=faults, least=0.0)
            return np.stack(
                [times, _yes_or_no(columns[1], where=where, rows=rows, faults=faults)], axis=1
            )
        case GenerationTask() if task.classes:
            return class_numbers(columns[0], data, task, where=where, rows=rows, faults=faults)
        case ReconstructionTask() | GenerationTask():
            return np.zeros((len(rows), 0), dtype=np.float32)
        case _:
            raise DataError(
                f"a {task.kind} task needs masks, which these files do not have",
                todo="use a source of images with masks",
                where=where,
            )


def _numbers(
    raw: Column,
    *,
    where: str,
    rows: Sequence[int] | NDArray[np.int64],
    faults: Faults,
    least: float = -np.inf,
) -> NDArray[np.float32]:
    def meant(label: object) -> float | None:
        try:
            number = np.float32(str(label).strip())
        except ValueError:
            return None
        return float(number) if np.isfinite(number) and number >= least else None

    kind = "a finite number" if least == -np.inf else f"a finite number of {least:g} or more"
    found = numbers_of(
        raw, meant, f"is not {kind}", todo="mend it", where=where, rows=rows, faults=faults
    )
    return found.astype(np.float32)


def _yes_or_no(
    raw: Column, *, where: str, rows: Sequence[int] | NDArray[np.int64], faults: Faults
) -> NDArray[np.float32]:
    found = numbers_of(
        raw,
        lambda label: _YES_OR_NO.get(label_text(label).lower()),
        "is neither yes nor no",
        todo=f"allowed: {', '.join(_YES_OR_NO)}",
        where=where,
        rows=rows,
        faults=faults,
    )
    return found.astype(np.float32)
