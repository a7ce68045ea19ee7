"""From raw labels, as a file has them, to class numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.cells import Coded
from fedward.client.data.faults import STRICT, Faults
from fedward.study.any_data import Scalar, label_text
from fedward.study.data import Data
from fedward.study.errors import DataError
from fedward.study.task import ClassTask, GenerationTask, SegmentationTask

Mask = NDArray[np.uint8] | NDArray[np.int64]
"""Class numbers of pixels."""

Column = Sequence[object] | Coded
"""Raw labels as a file has them: numbers or text."""


def class_numbers(
    raw: Column,
    data: Data,
    task: ClassTask | GenerationTask,
    *,
    where: str,
    rows: Sequence[int] | NDArray[np.int64],
    faults: Faults = STRICT,
) -> NDArray[np.int64]:
    """The class number of each raw label, shape (n,).

    Args:
        raw: Labels.
        data: The study's data, which may say which raw labels mean a class.
        task: The study's classes.
        where: File and column, for the error.
        rows: Number of each record in its file, from 0, for the error.
        faults: Told of a label that means no class; where it goes on, that is the first class.

    Raises:
        DataError: A label means no class; the message names the record.
    """
    classes = meaning(data, task)
    numbers = numbers_of(
        raw,
        lambda label: classes.get(label_text(label)),
        "is none of the classes",
        todo=f"allowed: {', '.join(classes)}",
        where=where,
        rows=rows,
        faults=faults,
    )
    return numbers.astype(np.int64)


def numbers_of(
    raw: Column,
    meant: Callable[[object], float | None],
    fault: str,
    *,
    todo: str,
    where: str,
    rows: Sequence[int] | NDArray[np.int64],
    faults: Faults,
) -> NDArray[np.float64]:
    """What each raw label means; of labels that are often said each is looked at once.

    Args:
        raw: n labels.
        meant: The number that a label means; None if it means none.
        fault: What is wrong with such a label.
        todo: Against that.
        where: File and column, for the error.
        rows: Number of each record in its file, from 0, for the error.
        faults: Told of such labels; where it goes on, they mean 0.
    """
    codes, different = _different(raw)
    numbers = [meant(label) for label in different]
    if None in numbers:
        unknown = np.array([number is None for number in numbers])
        for place in np.flatnonzero(unknown[codes]).tolist():
            row, label = int(rows[place]), str(different[codes[place]])
            error = DataError(
                f"label {label!r} of record {row + 1} {fault}", todo=todo, where=where
            )
            faults.add(error, row)
    return np.array([number or 0 for number in numbers], dtype=np.float64)[codes]


def _different(raw: Column) -> tuple[NDArray[np.int64], list[object]]:
    """For each label its place among the different ones, and those."""
    if isinstance(raw, Coded):
        return raw.codes, raw.different.tolist()
    if len(set(map(type, raw))) > 1:  # 1 and True are equal, and are not the same label
        return np.arange(len(raw)), list(raw)
    places = {label: place for place, label in enumerate(dict.fromkeys(raw))}
    return np.fromiter(map(places.__getitem__, raw), np.int64, len(raw)), list(places)


def mask_classes(
    mask: NDArray[np.generic], data: Data, task: SegmentationTask, *, where: str
) -> Mask:
    """The class number of each pixel of a mask, of the mask's shape, in `mask_type`.

    Args:
        mask: Raw values, whole numbers in whatever type.
        data: The study's data, which may say which values mean a class.
        task: The study's classes.
        where: The mask's file, for the error.

    Raises:
        DataError: A value means no class.
    """
    values, place = np.unique(mask, return_inverse=True)
    classes = meaning(data, task)
    numbers = np.empty(len(values), dtype=mask_type(task))
    for number, value in enumerate(values):
        known = classes.get(label_text(value))
        if known is None:
            raise DataError(
                f"{label_text(value)!r} in a mask is none of the classes",
                todo=f"allowed: {', '.join(classes)}",
                where=where,
            )
        numbers[number] = known
    found: Mask = numbers[place.reshape(mask.shape)]
    return found


def mask_type(task: SegmentationTask) -> np.dtype[np.uint8] | np.dtype[np.int64]:
    """The type of a mask's numbers: a byte a pixel, unless there are more classes than it has."""
    return np.dtype(np.uint8) if len(task.classes) <= 256 else np.dtype(np.int64)


def meaning(data: Data, task: ClassTask | GenerationTask | SegmentationTask) -> dict[str, int]:
    """For each raw label, as text, the number of its class."""
    if data.class_values is None:
        values: list[list[Scalar]] = [[n, name] for n, name in enumerate(task.classes)]
    else:
        values = [list(group) for group in data.class_values]
    return {label_text(value): number for number, group in enumerate(values) for value in group}
