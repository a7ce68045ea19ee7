"""From the columns of a table to a model's inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.cells import Cells, Numbers
from fedward.client.data.faults import Faults
from fedward.client.data.records import Fact
from fedward.client.data.sources import BundledSource, TabularSource
from fedward.study.any_data import Scalar
from fedward.study.errors import DataError
from fedward.study.table_data import Feature, TableData

_LARGEST = 1e18  # its square is still a float32
_FAR = 10.0  # scales from a feature's center that are worth a second look
_AT_ONCE = 8192  # rows of all features, which a processor's cache holds

_Block = Callable[[slice], NDArray[np.float32] | NDArray[np.float64]]
"""From some of the rows to a feature's inputs, shape (rows, the feature's width)."""


def numbers_of(data: TableData) -> list[str]:
    """The features that are numbers."""
    return [name for name, feature in data.features.items() if feature.categories is None]


def all_fit(cells: Cells, source: TabularSource | BundledSource, data: TableData) -> bool:
    """Whether no number has to be told as it is written, for all are as the study wants them."""
    for name in numbers_of(data):
        column = source.column(name)
        found = cells.numbers(column) if column in cells.frame else None
        if found is None:
            continue
        numbers, feature = found.values, data.features[name]
        most = _LARGEST * feature.scale
        if (np.abs(found.ends - feature.center) <= most).all():
            continue
        may_lack = feature.fill is not None or data.missing == "drop"
        fits = np.abs(numbers - feature.center) <= most
        if not (fits | (np.isnan(numbers) & may_lack)).all():
            return False
    return True


def filled(column: pd.Series[str], lacking: NDArray[np.bool_], fill: Scalar) -> pd.Series[str]:
    """A column with a value in place of what is missing."""
    value: Any = fill if column.dtype == float else str(fill)
    found = column.copy()
    found[lacking] = value
    return found


def inputs_of(
    cells: Cells, theirs: dict[str, str], data: TableData, faults: Faults
) -> tuple[NDArray[np.float32], list[Fact]]:
    """The features of n rows, shape (n, width); and what of them is worth a look.

    Args:
        cells: Nothing is missing.
        theirs: What the hospital calls the study's columns.
        data: The study's.
        faults: Told of a value that cannot be; where it goes on, that is 0.

    Raises:
        DataError: A value cannot be; the message names row and column.
    """
    blocks: list[_Block] = []
    facts: list[Fact] = []
    for name, feature in data.features.items():
        column = theirs[name]
        if feature.categories is not None:
            blocks.append(_one_hot(cells, cells.frame[column], feature.categories, faults))
            continue
        numbers = cells.numbers(column) or Numbers.of(_as_numbers(cells.frame[column]))
        blocks.append(_scaled(cells, column, numbers, feature, faults))
        facts += _odd(cells, column, numbers, feature)
    found = np.empty((len(cells.frame), *data.input_shape), dtype=np.float32)
    for start in range(0, len(found), _AT_ONCE):
        rows, place = slice(start, start + _AT_ONCE), 0
        for feature, block in zip(data.features.values(), blocks, strict=True):
            found[rows, place : place + feature.width] = block(rows)
            place += feature.width
    return found, facts


def _scaled(
    cells: Cells,
    column: str,
    numbers: Numbers,
    feature: Feature,
    faults: Faults,
) -> _Block:
    values = numbers.values

    def plain(rows: slice) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = values[rows] - feature.center
        scaled /= feature.scale
        return scaled

    ends = (numbers.ends - feature.center) / feature.scale  # rounds as the values between do
    if fits := bool((np.abs(ends) <= _LARGEST).all()):
        bad = np.zeros(0, dtype=bool)
    else:
        bad = ~(np.abs(plain(slice(None))) <= _LARGEST)
    for place in np.flatnonzero(bad):
        row = int(cells.frame.index[int(place)])
        error = DataError(
            f"row {row + 1}, column {column!r}: {str(cells.frame[column].iloc[int(place)])!r} "
            "is not a finite number of ordinary size",
            todo="mend the value, or name its mark in [data] missing of hospital.toml",
            where=cells.where,
        )
        faults.add(error, row)

    def block(rows: slice) -> NDArray[np.float64]:
        scaled = plain(rows)
        if not fits:
            scaled[bad[rows]] = 0.0
        if feature.bounds is not None:
            scaled = np.clip(scaled, *feature.bounds)
        if feature.absent is None:
            return scaled[:, None]
        absent = values[rows] == feature.absent
        return np.stack([np.where(absent, 0.0, scaled), absent], axis=1)

    return block


def _odd(cells: Cells, column: str, of: Numbers, feature: Feature) -> list[Fact]:
    """Values that a study's public scale did not expect are allowed, and often a wrong unit."""
    if feature.bounds is not None:
        low, high = feature.bounds
        expected = f"beyond the study's bounds, {low:g} to {high:g}"
    else:
        low, high = (feature.center + side * _FAR * feature.scale for side in (-1, 1))
        expected = f"more than {_FAR:g} scales from the study's center"
    if ((of.ends >= low) & (of.ends <= high)).all():
        return []
    numbers = of.values
    far = np.maximum(low - numbers, numbers - high)
    far = np.where(np.isfinite(far) & (numbers != feature.absent), far, 0.0)
    if not (count := int((far > 0).sum())):
        return []
    row = int(cells.frame.index[int(far.argmax())]) + 1
    text = f"column {column!r}: values {expected}: {count}, the farthest in row {row}"
    return [Fact("look at", f"{text}; another unit?")]


def _as_numbers(column: pd.Series[str]) -> NDArray[np.float64]:
    if column.dtype == float:
        return column.to_numpy(dtype=np.float64)
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)


def _one_hot(
    cells: Cells, column: pd.Series[str], categories: tuple[Scalar, ...], faults: Faults
) -> _Block:
    """One value of a few in each row, so that each of the few is looked at once."""
    codes, different = cells.coded(str(column.name))
    few = pd.Series(different, dtype=str)
    numbers = _as_numbers(few)
    columns = [
        few == category if isinstance(category, str) else numbers == float(category)
        for category in categories
    ]
    of_each = np.stack(columns, axis=1).astype(np.float32)
    allowed: NDArray[np.bool_] = np.asarray(of_each.any(axis=1))
    for place in () if allowed.all() else np.flatnonzero(~allowed[codes]):
        row = int(column.index[int(place)])
        error = DataError(
            f"row {row + 1}, column {column.name!r}: "
            f"{str(column.iloc[int(place)])!r} is no category of the study",
            todo=f"allowed: {', '.join(map(str, categories))}",
            where=cells.where,
        )
        faults.add(error, row)
    return lambda rows: of_each[codes[rows]]
