"""How far two histograms of the same cells are apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri

Counts = NDArray[np.float64]

_NOBODY = 0.5  # a cell that nobody is in counts as half a record: its logarithm is finite


def stability_index(expected: Counts, seen: Counts) -> float:
    """Population stability index: the sum over cells of (s - e) ln(s / e), of shares e and s.

    It is the relative entropy of the one to the other and back (Jeffreys 1946).
    """
    e, s = (_shares(np.where(counts > 0, counts, _NOBODY)) for counts in (expected, seen))
    return float(((s - e) * np.log(s / e)).sum())


def stability_by_chance(
    expected: Counts, seen: float, *, deviation: float = 0.0, surprise: float
) -> float:
    """What the index stays below if nothing has changed, but for so much surprise.

    Without noise the index over 1 / m + 1 / n is about chi-square with one degree of freedom less
    than there are cells (Yurdakul and Naranjo 2020). Noise in the expected cells is added to that.

    Args:
        expected: Counts of m patients.
        seen: Records, n > 0.
        deviation: Standard deviation of the noise in each expected cell.
        surprise: Probability, > 0.
    """
    whole, free = float(expected.sum()), len(expected) - 1
    if free < 1:
        return 0.0
    shares = _shares(np.maximum(expected, _NOBODY))
    noise = float((deviation**2 / whole**2 / shares).sum()) / free
    return float(chdtri(free, surprise)) * (1 / whole + 1 / seen + noise)


def largest_distance(
    expected: Counts, hidden: NDArray[np.bool_], rest: float, seen: Counts
) -> float:
    """Kolmogorov-Smirnov: the largest distance of the cumulative shares at the cells' edges.

    Of hidden cells only the sum is known: at each edge the smallest distance that is possible
    counts, so that the truth is this or more.

    Args:
        expected: Counts of ordered cells; of hidden ones 0.
        hidden: Which are.
        rest: What is in the hidden cells together.
        seen: Counts of the same cells, somebody in them.
    """
    whole = expected.sum() + rest
    before = hidden.cumsum()
    least = (expected.cumsum() + np.where(before == before[-1], rest, 0.0)) / whole
    most = (expected.cumsum() + np.where(before > 0, rest, 0.0)) / whole
    now = seen.cumsum() / seen.sum()
    return float(np.maximum(np.maximum(now - most, least - now), 0.0).max())


def distance_by_chance(
    expected: float, seen: float, *, cells: int, deviation: float = 0.0, surprise: float
) -> float:
    """What the largest distance stays below if nothing has changed, but for so much surprise.

    Massart 1990 for two samples, and three deviations of the noise in all cells together.
    """
    sampled = float(np.sqrt(-np.log(surprise / 2) / 2 * (1 / expected + 1 / seen)))
    return sampled + 3 * deviation * float(np.sqrt(cells)) / expected


def _shares(counts: Counts) -> Counts:
    found: Counts = counts / counts.sum()
    return found
