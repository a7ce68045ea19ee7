"""What scaling constants are measured from: sums over patients, and what becomes of them.

A value is held to its public bounds and mapped to [-1, 1]. A patient adds, for each measured
feature, the mean over the patient's records of the value and of its square, and where a value may
be absent, the share of records where it is (these records add nothing else):

    [ patients | value, square, value, square, ... | absent, absent, ... ]

With privacy on, a patient's vector is shortened to the L2 norm sqrt(d) for d measured features.
Values and squares of one feature are together at most sqrt(2) long, and a patient whose values lie
about half the way to their bounds is well within: who lies at all bounds at once counts for less.
The number of patients is then the declared one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.contribution import Layout
from fedward.study.data import Data
from fedward.study.scaling import Scaling
from fedward.study.statistics import Measured

Doubles = NDArray[np.float64]

LEAST_DEVIATION = 0.05
"""Of a feature, in units of half the distance of its bounds: a public constant."""

NOISY_LEAST_DEVIATION = 0.2
"""The same with privacy on, where noise may leave nearly nothing of a variance."""

_FEWEST = 1.0  # patients with a value; below that the bounds alone say what is typical


def layout_of(data: Data, *, cells: int = 0) -> Layout:
    """Of what a hospital adds: the count is a whole number, all else is real.

    Args:
        data: The study's.
        cells: Of its table of statistics, which follow (`statistics_table.py`).
    """
    size = 1 + _size(data) + cells
    return Layout(0, size, tuple(range(1, size)))


def norm_of(data: Data) -> float:
    """The largest L2 norm of what one patient adds with privacy on: public."""
    return math.sqrt(len(data.measured))


def patient_vectors(inputs: Doubles, patients: NDArray[np.int64], data: Data) -> Doubles:
    """What each patient adds, without the count, shape (m, k); a row for each different patient.

    Args:
        inputs: Of the records as they were read, not scaled, shape (n, width).
        patients: Of each record, shape (n,).
        data: The study's.
    """
    return means_over(moments(inputs, data.measured), patients)


def moments(inputs: Doubles, features: Sequence[Measured]) -> Doubles:
    """For each record value and square of each feature, and then the absences, shape (n, k)."""
    pairs, absences = [], []
    for feature in features:
        value, absent = mapped(inputs, feature)
        if feature.absent is not None:
            absences.append(absent.astype(np.float64))
        pairs += [value, value**2]
    return np.stack([*pairs, *absences], axis=1) if pairs else np.zeros((len(inputs), 0))


def mapped(inputs: Doubles, feature: Measured) -> tuple[Doubles, NDArray[np.bool_]]:
    """A feature's values between -1 and 1, 0 where there is none; and where there is none."""
    read = inputs[:, feature.place] * feature.scale + feature.center
    value = np.nan_to_num(np.clip((read - feature.middle) / feature.half, -1, 1))
    absent = np.zeros(len(inputs), dtype=bool)
    if feature.absent is not None:
        absent = inputs[:, feature.absent] > 0
    return np.where(absent, 0.0, value), absent  # and no record makes measuring fail


def means_over(rows: Doubles, patients: NDArray[np.int64]) -> Doubles:
    """The mean over each patient's records, shape (m, k)."""
    names, place, records = np.unique(patients, return_inverse=True, return_counts=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, place, rows)
    means: Doubles = sums / records[:, None]
    return means


def clipped_sum(vectors: Doubles, norm: float) -> Doubles:
    """The sum over patients, each shortened to the norm; one patient more moves it by no more."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    total: Doubles = (vectors * np.minimum(1, norm / np.maximum(lengths, norm))).sum(axis=0)
    return total


def scaling_of(sums: Doubles, data: Data, *, noisy: bool = False) -> Scaling:
    """Center and scale of each measured feature: mean and standard deviation over patients.

    A patient counts once, whatever records they have. Noise may have made the sums impossible: a
    mean is kept within its bounds, a deviation between `LEAST_DEVIATION` (`NOISY_LEAST_DEVIATION`)
    and 1 times half their distance, and where fewer than one patient has a value, both are the
    bounds' own.

    Args:
        sums: Over hospitals, as `layout_of` says.
        data: The study's.
        noisy: Whether they have noise.
    """
    least = NOISY_LEAST_DEVIATION if noisy else LEAST_DEVIATION
    count, wanted = float(sums[0]), data.measured
    absences = iter(sums[1 + 2 * len(wanted) :])
    centers, scales = [], []
    for number, feature in enumerate(wanted):
        present = count - (0.0 if feature.absent is None else float(next(absences)))
        mean, deviation = 0.0, 1.0
        if present >= _FEWEST:
            first, second = (float(sums[1 + 2 * number + k]) / present for k in (0, 1))
            mean = min(max(first, -1.0), 1.0)
            variance = min(max(second - mean**2, least**2), 1.0)
            deviation = math.sqrt(variance)
        center = feature.middle + feature.half * mean
        centers.append(min(max(center, feature.low), feature.high))
        scales.append(feature.half * deviation)
    return Scaling(tuple(centers), tuple(scales))


def _size(data: Data) -> int:
    return sum(2 + (feature.absent is not None) for feature in data.measured)
