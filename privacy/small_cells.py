"""Hiding small cells of a table: what is not shown cannot be computed from what is.

Cells of fewer than k patients are shown as that. Of a group of cells whose total is known, the
smallest others are hidden too, until every small cell could still be any number from 0 to k - 1
for whoever subtracts what is shown from the total.

A mean tells of small cells too, where values are few (0 and 1 at the worst): where a feature has a
hidden cell, its mean and variance are rounded to what k patients, moved from one end to the other,
could change them by.

Two tables of nearly the same patients, subtracted, can tell of those in one only: that is what
differential privacy is for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum

from pydantic import BaseModel, ConfigDict

from fedward.privacy.privacy_errors import MetricWouldLeave
from fedward.privacy.statistics_table import CategorySums, NumberSums, TableSums, norm_with_table
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study


class Hidden(Enum):
    """Why a cell is not shown."""

    SMALL = "small"
    WITH_IT = "hidden with it"


Cell = int | Hidden


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Number(_Entry):
    """One number: what may be shown.

    Attributes:
        low: Lower end of the histogram.
        high: Upper end.
        mean: Over patients who have a value; None where that is not shown.
        deviation: Standard deviation, likewise.
        absent: Patients without a value.
        cells: Patients in each cell of the histogram.
    """

    low: float
    high: float
    mean: float | None
    deviation: float | None
    absent: Cell
    cells: tuple[Cell, ...]


class Statistics(_Entry):
    """The table as it may be shown.

    Attributes:
        fewest: A cell of fewer patients is hidden (k).
        patients: To train on, at all hospitals.
        numbers: By the feature's name.
        categories: Patients of each category, by the feature's name.
        classes: Patients of each class, by the class's name; nothing where there are none.
        study: Digest of the study that asked for it; None of an older table.
        deviation: Standard deviation of the noise in each cell, which is public; 0 without.
    """

    fewest: int
    patients: int
    numbers: dict[str, Number]
    categories: dict[str, dict[str, Cell]]
    classes: dict[str, Cell]
    study: str | None = None
    deviation: float = 0.0


def shown(sums: TableSums, fewest: int) -> Statistics | None:
    """What may be shown of a table; nothing if it is of fewer patients than a cell must have."""
    if sums.patients < fewest:
        return None
    categories = {c.name: _category(c, sums.patients, fewest) for c in sums.categories}
    return Statistics(
        fewest=fewest,
        patients=round(sums.patients),
        numbers={n.name: _number(n, sums.patients, fewest) for n in sums.numbers},
        categories=categories,
        classes={} if sums.classes is None else _category(sums.classes, sums.patients, fewest),
    )


def shown_for(study: Study, sums: TableSums) -> Statistics:
    """What may be shown of the table that a study asks for.

    Raises:
        MetricWouldLeave: All patients together are too few to be shown.
    """
    asked = study.data.statistics
    fewest = 1 if asked is None else asked.fewest
    found = shown(sums, fewest)
    if found is None:
        raise MetricWouldLeave(
            f"all hospitals have fewer than {fewest} patients to train on",
            todo="ask more hospitals, or lower [data.statistics] fewest",
        )
    return found.model_copy(update={"study": study.digest(), "deviation": _deviation(study)})


def _deviation(study: Study) -> float:
    privacy = study.privacy
    if not isinstance(privacy, LocalPrivacy):
        return 0.0
    each = (privacy.statistics_noise_multiplier or 0.0) * norm_with_table(study)
    return each * math.sqrt(study.participation.hospitals)


def safe_cells(counts: Sequence[float], fewest: int) -> list[Cell]:
    """A group of cells whose total is known, with small ones hidden and what would give them away.

    Args:
        counts: Patients in each; shares of one where a patient is in several.
        fewest: k. With 1 nothing is hidden.
    """
    whole = [max(0, round(count)) for count in counts]
    if fewest <= 1:
        return [*whole]
    small = {place for place, count in enumerate(counts) if count < fewest}
    others = sorted((p for p in range(len(counts)) if p not in small), key=lambda p: counts[p])
    beside: set[int] = set()
    while small and others and not _safe(counts, small, beside, fewest):
        beside.add(others.pop(0))
    if small and not _safe(counts, small, beside, fewest):
        return [Hidden.WITH_IT] * len(counts)  # not even which of them are small
    return [
        Hidden.SMALL if p in small else Hidden.WITH_IT if p in beside else whole[p]
        for p in range(len(counts))
    ]


def _safe(counts: Sequence[float], small: set[int], beside: set[int], fewest: int) -> bool:
    """Whether any small cell could be 0, and could be k - 1, given the sum of what is hidden."""
    if len(small) + len(beside) < 2:
        return False
    total, most = sum(counts[place] for place in small | beside), fewest - 1
    hidden = small | beside
    # Those beside are known to be k or more, and no more than the smallest that is shown.
    above = min((c for place, c in enumerate(counts) if place not in hidden), default=math.inf)
    largest = most * (len(small) - 1) + (above * len(beside) if beside else 0.0)
    return fewest * len(beside) + most <= total <= largest


def _category(sums: CategorySums, patients: float, fewest: int) -> dict[str, Cell]:
    if sums.whole:
        cells = safe_cells(sums.cells.tolist(), fewest)
    else:  # findings of several: who has one and who has none are a group of two
        cells = [safe_cells([c, patients - c], fewest)[0] for c in sums.cells.tolist()]
    return dict(zip(sums.categories, cells, strict=True))


def _number(sums: NumberSums, patients: float, fewest: int) -> Number:
    absent, *cells = safe_cells([sums.absent or 0.0, *sums.cells.tolist()], fewest)
    if sums.absent is None:  # everybody has a value, and everybody knows that
        absent, cells = 0, safe_cells(sums.cells.tolist(), fewest)
    there = patients - (sums.absent or 0.0)
    mean, variance = sums.mean(patients), sums.variance(patients)
    if there < fewest or mean is None or variance is None:
        mean = variance = None
    elif any(isinstance(cell, Hidden) for cell in (absent, *cells)):
        width, share = sums.high - sums.low, min(1.0, fewest / there)
        mean = min(sums.low + _rounded(mean - sums.low, width * share), sums.high)
        variance = _rounded(variance, width**2 * share)
    return Number(
        low=sums.low,
        high=sums.high,
        mean=mean,
        deviation=None if variance is None else math.sqrt(variance),
        absent=absent,
        cells=tuple(cells),
    )


def _rounded(value: float, step: float) -> float:
    return step * round(value / step)
