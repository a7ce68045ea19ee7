"""A table of statistics over all hospitals: what a patient adds to it, and what the sums say.

After the sums for scaling constants (`statistics.py`) a patient adds, each as the mean over the
patient's records:

    [ value, square, ... | absent, ... | a histogram for each number | categories | classes ]

The first two blocks are of features with a span; those with bounds are in the sums before. A value
is in exactly one cell of its histogram, or absent. The table is of training patients only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.statistics import layout_of, mapped, moments, norm_of
from fedward.study.data import Data
from fedward.study.statistics import Measured
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.task import ClassTask, MultilabelTask

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class NumberSums:
    """Sums over patients of one number.

    Attributes:
        name: Of the feature.
        low: Lower end of the histogram.
        high: Upper end.
        absent: Patients without a value; None where everybody has one.
        first: Sum of values, mapped to -1 to 1.
        second: Sum of their squares.
        cells: Patients in each cell of the histogram, shape (bins,).
    """

    name: str
    low: float
    high: float
    absent: float | None
    first: float
    second: float
    cells: Doubles

    def mean(self, patients: float) -> float | None:
        """In the feature's unit, over those of so many patients who have a value."""
        there = patients - (self.absent or 0.0)
        if there <= 0:
            return None
        share = min(max(self.first / there, -1.0), 1.0)
        return (self.low + self.high) / 2 + share * (self.high - self.low) / 2

    def variance(self, patients: float) -> float | None:
        """In the square of the feature's unit; the mean of squares less the square of the mean."""
        there = patients - (self.absent or 0.0)
        if there <= 0:
            return None
        spread = self.second / there - (self.first / there) ** 2
        return min(max(spread, 0.0), 1.0) * ((self.high - self.low) / 2) ** 2


@dataclass(frozen=True)
class CategorySums:
    """Patients of each category, or of each class.

    Attributes:
        name: Of the feature, or of the label.
        categories: What they are called.
        cells: Patients of each, shape (categories,).
        whole: Whether every patient is in exactly one.
    """

    name: str
    categories: tuple[str, ...]
    cells: Doubles
    whole: bool = True


@dataclass(frozen=True)
class TableSums:
    """The whole table, as it was added up: it may be shown to nobody before small cells are hidden.

    Attributes:
        patients: To train on, at all hospitals; the declared ones where privacy is on.
        numbers: Features with bounds or a span.
        categories: Features with categories.
        classes: The label, where the task has classes.
    """

    patients: float
    numbers: tuple[NumberSums, ...]
    categories: tuple[CategorySums, ...]
    classes: CategorySums | None


class Categorical(NamedTuple):
    """A feature with categories.

    Attributes:
        name: Of the feature.
        place: Of the first category's input.
        categories: What they are called, one input each.
    """

    name: str
    place: int
    categories: tuple[str, ...]


def cells_of(study: Study) -> int:
    """How many numbers the table adds to what is measured; 0 where none is asked for."""
    data = study.data
    if data.statistics is None:
        return 0
    own = sum(2 + (feature.absent is not None) for feature in data.spanned)
    bins = data.statistics.bins * len(numbers_of(data))
    return own + bins + sum(len(c.categories) for c in categorical_of(data)) + len(_classes(study))


def counts_classes(study: Study) -> bool:
    """Whether labels are in the table: without one, and of other tasks, nobody needs them."""
    return study.data.statistics is not None and bool(_classes(study))


def norm_with_table(study: Study) -> float:
    """The largest L2 norm of what one patient adds with privacy on, table and all: public.

    A histogram, the categories of a feature and the class of one label are at most 1 long, the
    findings of several at most the square root of their number, and moments count as in
    `statistics.norm_of`.

    The two moments of a number count as 1 together, and are up to the square root of 2 long: a
    patient with values near their bounds is longer than this, and is shrunk to it, all cells by the
    same factor (`statistics.clipped_sum`). That bounds the patient's part, and pulls the table a
    little towards those with values in the middle.
    """
    square = norm_of(study.data) ** 2
    data = study.data
    if data.statistics is not None:
        square += len(data.spanned) + len(numbers_of(data)) + len(categorical_of(data))
        classes = len(_classes(study))
        square += classes if isinstance(study.task, MultilabelTask) else min(classes, 1)
    return math.sqrt(square)


def table_rows(inputs: Doubles, labels: NDArray[np.generic], study: Study) -> Doubles:
    """What each record says, shape (n, cells).

    Args:
        inputs: Of the records as they were read, a row of numbers each (see `summaries.py`), shape
            (n, width).
        labels: As the task has them, n of them; anything where classes are not counted.
        study: Asks for a table.
    """
    data = study.data
    if data.statistics is None:
        return np.zeros((len(inputs), 0))
    blocks: list[Doubles] = [moments(inputs, data.spanned)]
    blocks += [_histogram(inputs, feature, data.statistics.bins) for feature in numbers_of(data)]
    for feature in categorical_of(data):
        end = feature.place + len(feature.categories)
        blocks.append((inputs[:, feature.place : end] > 0).astype(np.float64))
    classes = len(_classes(study))
    if isinstance(study.task, ClassTask):
        blocks.append(np.equal.outer(labels, np.arange(classes)).astype(np.float64))
    elif classes:
        blocks.append(np.greater(labels, 0.5).astype(np.float64))
    return np.concatenate(blocks, axis=1)


def table_of(sums: Doubles, study: Study) -> TableSums:
    """What the sums over hospitals say, as `statistics.layout_of` lays them out."""
    data = study.data
    if data.statistics is None:
        raise ValueError("the study asks for no table")
    start = layout_of(data).metrics
    before, rest = sums[1:start], iter(sums[start:].tolist())
    found = dict(_moments_of(data.measured, iter(before.tolist())))
    found |= dict(_moments_of(data.spanned, rest))
    numbers = [
        NumberSums(f.name, f.low, f.high, *found[f.name], _next(rest, data.statistics.bins))
        for f in numbers_of(data)
    ]
    categories = [
        CategorySums(c.name, c.categories, _next(rest, len(c.categories)))
        for c in categorical_of(data)
    ]
    names, classes = _classes(study), None
    if names:
        label = ", ".join(data.label_columns)
        whole = isinstance(study.task, ClassTask)
        classes = CategorySums(label, names, _next(rest, len(names)), whole)
    return TableSums(float(sums[0]), tuple(numbers), tuple(categories), classes)


def _moments_of(
    features: tuple[Measured, ...], sums: Iterator[float]
) -> Iterator[tuple[str, tuple[float | None, float, float]]]:
    pairs = [(next(sums), next(sums)) for _ in features]
    for feature, (first, second) in zip(features, pairs, strict=True):
        absent = None if feature.absent is None else next(sums)
        yield feature.name, (absent, first, second)


def _next(sums: Iterator[float], count: int) -> Doubles:
    return np.array([next(sums) for _ in range(count)])


def bin_of(
    inputs: Doubles, feature: Measured, bins: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The bin of each record's value, and where there is none, shape (n,) each."""
    value, absent = mapped(inputs, feature)
    return np.minimum(((value + 1) / 2 * bins).astype(np.int64), bins - 1), absent


def _histogram(inputs: Doubles, feature: Measured, bins: int) -> Doubles:
    place, absent = bin_of(inputs, feature, bins)
    cells: Doubles = (place[:, None] == np.arange(bins)).astype(np.float64)
    cells[absent] = 0.0
    return cells


def numbers_of(data: Data) -> list[Measured]:
    """Features with bounds or a span, in the study's order."""
    return sorted([*data.measured, *data.spanned], key=lambda feature: feature.place)


def categorical_of(data: Data) -> list[Categorical]:
    """Features with categories, in the study's order; only tables have any."""
    found: list[Categorical] = []
    if not isinstance(data, TableData):
        return found
    place = 0
    for name, feature in data.features.items():
        if feature.categories is not None:
            found.append(Categorical(name, place, tuple(map(str, feature.categories))))
        place += feature.width
    return found


def _classes(study: Study) -> tuple[str, ...]:
    task = study.task
    return task.classes if isinstance(task, ClassTask | MultilabelTask) else ()
