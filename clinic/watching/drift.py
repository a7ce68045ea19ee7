"""What is compared, and when it is an alarm."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fedward.clinic.watching.cells import Kind
from fedward.clinic.watching.distances import (
    distance_by_chance,
    largest_distance,
    stability_by_chance,
    stability_index,
)
from fedward.clinic.watching.reference import Expected
from fedward.study.frozen import Frozen

ALARM = 0.2
"""Least index, and least distance, of an alarm: what is often called a large shift."""

_SURPRISE = 1e-3  # probability of an alarm at any of the histograms, if nothing has changed
_DIGITS = 2  # of what is shown: one record more hardly shows


class Drift(Frozen):
    """How far what a model sees, or says, is from what it was trained on.

    Attributes:
        kind: Of the histogram.
        name: Of the feature, or of the class whose score it is.
        records: That are compared.
        psi: Population stability index, in steps of 0.01.
        ks: Kolmogorov-Smirnov distance, likewise; None where cells have no order. With hidden cells
            it is the least that is possible.
        alarm: Whether one of them is large, and larger than chance would make it.
    """

    kind: Kind
    name: str
    records: Annotated[int, Field(ge=0)]
    psi: Annotated[float, Field(ge=0)]
    ks: Annotated[float, Field(ge=0, le=1)] | None
    alarm: bool


def drift_of(expected: Expected, seen: NDArray[np.float64], *, histograms: int) -> Drift:
    """Compare one histogram.

    Args:
        expected: Something is known of it.
        seen: Counts of the same cells.
        histograms: How many are compared.
    """
    surprise = _SURPRISE / (2 * histograms)
    hidden = np.array([cell is None for cell in expected.cells])
    cells = np.array([cell or 0 for cell in expected.cells], dtype=np.float64)
    whole, records = float(cells.sum() + expected.hidden), float(seen.sum())
    if not records or not whole:
        return Drift(kind=expected.kind, name=expected.name, records=0, psi=0, ks=None, alarm=False)
    before, now = cells[~hidden], seen[~hidden]
    if hidden.any():  # of these only the sum is known
        before = np.append(before, expected.hidden)
        now = np.append(now, seen[hidden].sum())
    psi = stability_index(before, now)
    noise = expected.deviation
    usual = stability_by_chance(before, records, deviation=noise, surprise=surprise)
    alarm = psi >= max(ALARM, usual)
    ks = None
    if expected.kind != "category":
        ks = largest_distance(cells, hidden, float(expected.hidden), seen)
        usual = distance_by_chance(
            whole, records, cells=len(cells), deviation=noise, surprise=surprise
        )
        alarm = alarm or ks >= max(ALARM, usual)
    return Drift(
        kind=expected.kind,
        name=expected.name,
        records=round(records),
        psi=_shown(psi),
        ks=None if ks is None else _shown(ks),
        alarm=alarm,
    )


def _shown(value: float) -> float:
    return round(max(value, 0.0), _DIGITS)
