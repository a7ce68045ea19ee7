"""From raw labels, as a file has them, to class numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.study.data import Data, Scalar
from fedward.study.errors import DataError
from fedward.study.study import Task


def class_numbers(
    raw: Sequence[object], data: Data, task: Task, *, where: str, first_row: int = 0
) -> NDArray[np.int64]:
    """The class number of each raw label, shape (n,).

    Args:
        raw: Labels as the file has them: numbers or text.
        data: The study's data, which may say which raw labels mean a class.
        task: The study's classes.
        where: File and column, for the error.
        first_row: Number of the first record, as a person counts them, for the error.

    Raises:
        DataError: A label means no class; the message names the record.
    """
    meaning = _meaning(data, task)
    numbers = np.empty(len(raw), dtype=np.int64)
    for place, label in enumerate(raw):
        number = meaning.get(_key(label))
        if number is None:
            raise DataError(
                f"label {str(label)!r} of record {place + first_row} is none of the classes",
                todo=f"allowed: {', '.join(meaning)}",
                where=where,
            )
        numbers[place] = number
    return numbers


def _meaning(data: Data, task: Task) -> dict[str, int]:
    if data.class_values is None:
        values: list[list[Scalar]] = [[n, name] for n, name in enumerate(task.classes)]
    else:
        values = [list(group) for group in data.class_values]
    return {_key(value): number for number, group in enumerate(values) for value in group}


def _key(label: object) -> str:
    """One text for 1, 1.0, "1" and "1.0", since files write the same class in many ways."""
    text = str(label).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text
