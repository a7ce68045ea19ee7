"""Settings for `flamby_dp.py`, chosen within the hospitals' training parts alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from dp_descent import (
    Array,
    Fold,
    Hospital,
    Setting,
    cross_validate,
    descend,
    first_weights,
    log_odds,
)
from sklearn.model_selection import StratifiedKFold

from fedward.client.data.records import Records
from fedward.privacy.accounting import SampledGaussian, calibrate
from fedward.privacy.statistics import clipped_sum, norm_of, patient_vectors, scaling_of
from fedward.study.data import Data
from fedward.study.scaling import Scaling

GRID = [
    Setting(rounds, rate, norm, decay)
    for rounds, rate, norm, decay in itertools.product(
        (10, 30), (0.1, 0.3, 1.0, 3.0), (0.5, 1.0, 2.0), (0.0, 0.01, 0.05)
    )
]
DIVISIONS, PARTS, DRAWS = 2, 5, 32
MEASURINGS = 8  # draws of the noise of measured constants, each with DRAWS / MEASURINGS of training
STATISTICS = {1.0: (5.0, 7.0, 10.0, 14.0, 20.0, 40.0), 10.0: (0.7, 1.0, 2.0, 4.0, 7.0, 14.0)}


def best(training: Sequence[Records], *, epsilon: float, delta: float) -> tuple[Setting, float]:
    """The setting with the greatest mean of the centres' accuracy, and that accuracy.

    Args:
        training: The training part of each hospital.
        epsilon: Of a run.
        delta: Of a run.
    """
    folds = list(_folds([_hospital(records) for records in training]))
    found = {
        setting: cross_validate(
            setting, folds, mean_of_centres, epsilon=epsilon, delta=delta, draws=DRAWS
        )
        for setting in GRID
    }
    chosen = max(found, key=found.__getitem__)
    return chosen, found[chosen]


def best_noise(
    training: Sequence[Records], data: Data, setting: Setting, *, epsilon: float, delta: float
) -> tuple[float, float]:
    """The noise of measured constants with the greatest mean accuracy, and that accuracy.

    The setting of the training stays; its noise is what epsilon leaves for it.

    Args:
        training: The training part of each hospital, as it was read: within bounds, not scaled.
        data: Of a study that measures.
        setting: Of the training.
        epsilon: Of a run, measuring and training together.
        delta: Of a run.
    """
    folds = list(_folds([_hospital(records) for records in training]))
    found = {}
    for noise in STATISTICS[epsilon]:
        beside = (SampledGaussian(noise, 1.0, 1),)
        sigma = calibrate(epsilon, delta, 1.0, setting.rounds, "prv", beside)
        rng = np.random.default_rng(0)
        scores = [
            _score(fold, data, setting, noise=noise, sigma=sigma, rng=rng)
            for fold in folds
            for _ in range(MEASURINGS)
        ]
        found[noise] = float(np.mean(scores))
    chosen = max(found, key=found.__getitem__)
    return chosen, found[chosen]


def _score(
    fold: Fold,
    data: Data,
    setting: Setting,
    *,
    noise: float,
    sigma: float,
    rng: np.random.Generator,
) -> float:
    """Measured, scaled, trained and judged, once with each of a few noises of training."""
    scaling = _measured(fold.train, data, noise, rng)
    train, judge = ([_scaled(one, data, scaling) for one in side] for side in fold)
    start = first_weights(train[0].inputs.shape[1], DRAWS // MEASURINGS, rng)
    weights = descend(train, setting, start, sigma=sigma, rng=rng)
    return float(mean_of_centres(judge, weights).mean())


def _measured(
    hospitals: Sequence[Hospital], data: Data, noise: float, rng: np.random.Generator
) -> Scaling:
    """What hospitals that each add the whole noise would come to."""
    norm = norm_of(data)
    sums = [clipped_sum(patient_vectors(one.inputs, one.patients, data), norm) for one in hospitals]
    total = np.sum(sums, axis=0)
    total = total + rng.normal(0, noise * norm * np.sqrt(len(hospitals)), total.shape)
    patients = sum(len(one.labels) for one in hospitals)
    return scaling_of(np.concatenate([[patients], total]), data, noisy=True)


def _scaled(hospital: Hospital, data: Data, scaling: Scaling) -> Hospital:
    inputs = hospital.inputs.copy()
    for feature, center, scale in zip(data.measured, scaling.centers, scaling.scales, strict=True):
        values = (inputs[:, feature.place] - center) / scale
        absent = 0.0 if feature.absent is None else inputs[:, feature.absent]
        inputs[:, feature.place] = np.where(absent, 0.0, values)
    return hospital._replace(inputs=inputs)


def mean_of_centres(hospitals: Sequence[Hospital], weights: Array) -> Array:
    """Mean over hospitals of the accuracy at each, a figure for each column of weights."""
    each = [
        ((log_odds(one.inputs, weights) > 0) == one.labels[:, None]).mean(axis=0)
        for one in hospitals
    ]
    mean: Array = np.mean(each, axis=0)
    return mean


def _hospital(records: Records) -> Hospital:
    return Hospital(
        records.inputs.double().numpy(), records.labels.numpy(), np.arange(len(records))
    )


def _folds(hospitals: Sequence[Hospital]) -> Iterator[Fold]:
    for division in range(DIVISIONS):
        deal = StratifiedKFold(  # type: ignore[no-untyped-call]
            PARTS, shuffle=True, random_state=division
        )
        splits = [
            list(deal.split(one.inputs, one.labels))  # type: ignore[no-untyped-call]
            for one in hospitals
        ]
        for part in range(PARTS):
            sides = [split[part] for split in splits]
            yield Fold(
                [_some(one, side[0]) for one, side in zip(hospitals, sides, strict=True)],
                [_some(one, side[1]) for one, side in zip(hospitals, sides, strict=True)],
            )


def _some(hospital: Hospital, rows: Sequence[int]) -> Hospital:
    return Hospital(hospital.inputs[rows], hospital.labels[rows], hospital.patients[rows])
