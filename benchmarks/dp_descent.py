"""Private training of a linear model in NumPy, for many draws of the noise at once.

It serves to choose settings: cross-validation as whole simulations would take hours. It does what
`fedward.privacy.patient_steps` does in a study with one step a round whose hospitals count by their
patients, less the federation; a test holds the two together. No figure of a report comes from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fedward.privacy.accounting import calibrate

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

NO_CLIPPING = 1e9


@dataclass(frozen=True)
class Setting:
    """What is chosen; the names are those of a study."""

    rounds: int
    learning_rate: float
    clipping_norm: float
    weight_decay: float
    sampling_rate: float = 1.0
    records_per_patient: int = 1


class Hospital(NamedTuple):
    """Inputs (n, d), labels 0 and 1 (n,), and each record's patient in ascending order (n,)."""

    inputs: Array
    labels: Labels
    patients: Labels


class Fold(NamedTuple):
    """The hospitals' records to train on, and to judge on."""

    train: Sequence[Hospital]
    judge: Sequence[Hospital]


def cross_validate(
    setting: Setting,
    folds: Iterable[Fold],
    score: Callable[[Sequence[Hospital], Array], Array],
    *,
    epsilon: float,
    delta: float | None,
    draws: int,
    seed: int = 0,
) -> float:
    """Mean score over folds and draws of the noise; `score` gives one for each column.

    There is no noise where delta is None.
    """
    sigma = 0.0
    if delta is not None:
        sigma = calibrate(epsilon, delta, setting.sampling_rate, setting.rounds, "prv")
    rng = np.random.default_rng(seed)
    found = []
    for fold in folds:
        start = first_weights(fold.train[0].inputs.shape[1], draws, rng)
        found.append(score(fold.judge, descend(fold.train, setting, start, sigma=sigma, rng=rng)))
    return float(np.mean(found))


def first_weights(inputs: int, draws: int, rng: np.random.Generator) -> Array:
    """Second output's weights less the first's, drawn as PyTorch does; the bias is the last row."""
    bound = 1 / math.sqrt(inputs)
    each = rng.uniform(-bound, bound, (2, inputs + 1, draws))
    difference: Array = each[1] - each[0]
    return difference


def log_odds(inputs: Array, weights: Array) -> Array:
    """Of the second class, shape (n, draws)."""
    odds: Array = inputs @ weights[:-1] + weights[-1]
    return odds


def descend(
    hospitals: Sequence[Hospital],
    setting: Setting,
    weights: Array,
    *,
    sigma: float,
    rng: np.random.Generator,
) -> Array:
    """The weights after all rounds, shape (d + 1, draws).

    The two outputs' gradients are each other's opposite, so their difference is enough: both have
    sqrt(2) times the norm of one, and the difference of their noises has twice the variance.
    """
    total = sum(len(np.unique(hospital.patients)) for hospital in hospitals)
    scale = sigma * setting.clipping_norm * math.sqrt(2 * len(hospitals))
    for _ in range(setting.rounds):
        clipped = sum(_clipped_sum(hospital, weights, setting, rng) for hospital in hospitals)
        noisy = 2 * clipped + rng.normal(0, scale, weights.shape)
        decay = setting.weight_decay * np.vstack([weights[:-1], np.zeros_like(weights[-1:])])
        weights = weights - setting.learning_rate * (
            noisy / (setting.sampling_rate * total) + decay
        )
    return weights


def _clipped_sum(
    hospital: Hospital, weights: Array, setting: Setting, rng: np.random.Generator
) -> Array:
    chosen = _sampled(hospital.patients, setting, rng)
    if not len(chosen):
        return np.zeros_like(weights)
    inputs = np.c_[hospital.inputs[chosen], np.ones(len(chosen))]
    slope = expit(inputs @ weights) - hospital.labels[chosen, None]
    _, first, records = np.unique(hospital.patients[chosen], return_index=True, return_counts=True)
    if len(first) == len(chosen):  # a record each: no need to keep their gradients apart
        norms = np.abs(slope) * np.linalg.norm(inputs, axis=1, keepdims=True)
        one_each: Array = inputs.T @ (slope * _shrink(norms, setting))
        return one_each
    apart = np.add.reduceat(inputs[:, :, None] * slope[:, None, :], first, axis=0)
    means = apart / records[:, None, None]
    norms = np.linalg.norm(means, axis=1, keepdims=True)
    whole: Array = (means * _shrink(norms, setting)).sum(axis=0)
    return whole


def _shrink(norms: Array, setting: Setting) -> Array:
    factor: Array = np.minimum(1, setting.clipping_norm / np.maximum(math.sqrt(2) * norms, 1e-12))
    return factor


def _sampled(patients: Labels, setting: Setting, rng: np.random.Generator) -> NDArray[np.intp]:
    """Records of one step: Poisson over patients, then at most K of each, in their order."""
    names, place, records = np.unique(patients, return_inverse=True, return_counts=True)
    taken = rng.random(len(names)) < setting.sampling_rate
    if records.max() <= setting.records_per_patient:
        return np.flatnonzero(taken[place])
    mixed = np.lexsort((rng.random(len(patients)), place))
    rank = np.arange(len(patients)) - np.repeat(np.cumsum(records) - records, records)
    return np.sort(mixed[(rank < setting.records_per_patient) & taken[place[mixed]]])
