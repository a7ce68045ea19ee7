"""Settings for `flamby_dp.py`, chosen within the hospitals' training parts alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from dp_descent import Array, Fold, Hospital, Setting, cross_validate, log_odds
from sklearn.model_selection import StratifiedKFold

from fedward.client.data.records import Records

GRID = [
    Setting(rounds, rate, norm, decay)
    for rounds, rate, norm, decay in itertools.product(
        (10, 30), (0.1, 0.3, 1.0, 3.0), (0.5, 1.0, 2.0), (0.0, 0.01, 0.05)
    )
]
DIVISIONS, PARTS, DRAWS = 2, 5, 32


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
