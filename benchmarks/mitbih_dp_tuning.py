"""Settings for `mitbih_dp.py`, chosen among the patients to train on alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from dp_descent import (
    NO_CLIPPING,
    Array,
    Fold,
    Hospital,
    Setting,
    cross_validate,
    log_odds,
)
from mitbih_beats import FEATURES, HOSPITALS, TRAIN
from sklearn.metrics import roc_auc_score

FOLDS, DRAWS = 4, 16


def grid(like: Setting) -> list[Setting]:
    """The settings to choose from, with the sampling of this one."""
    norms: tuple[float, ...] = (0.1, 0.3, 1.0) if like.sampling_rate == 1 else (0.3, 1.0, 3.0)
    if like.clipping_norm == NO_CLIPPING:
        norms = (NO_CLIPPING,)
    return [
        replace(like, rounds=rounds, learning_rate=rate, clipping_norm=norm, weight_decay=decay)
        for rounds, rate, norm, decay in itertools.product(
            (30, 60), (0.3, 1.0, 3.0), norms, (0.0, 0.05)
        )
    ]


def best(
    beats: pd.DataFrame,
    settings: Sequence[Setting],
    *,
    by_beat: bool,
    epsilon: float,
    delta: float | None,
) -> tuple[Setting, float]:
    """The setting with the greatest AUC on patients that were left out, and that AUC."""
    folds = [_fold(beats, number, by_beat=by_beat) for number in range(FOLDS)]
    found = {
        setting: cross_validate(setting, folds, _areas, epsilon=epsilon, delta=delta, draws=DRAWS)
        for setting in settings
    }
    chosen = max(found, key=found.__getitem__)
    return chosen, found[chosen]


def _fold(beats: pd.DataFrame, number: int, *, by_beat: bool) -> Fold:
    out = TRAIN[number::FOLDS]
    kept = [patient for patient in TRAIN if patient not in out]
    return Fold(
        [_hospital(beats, kept[h::HOSPITALS], by_beat=by_beat) for h in range(HOSPITALS)],
        [_hospital(beats, out, by_beat=by_beat)],
    )


def _hospital(beats: pd.DataFrame, patients: Sequence[int], *, by_beat: bool) -> Hospital:
    here = beats[beats["patient"].isin(patients)]
    scaled = [
        (here[name] - feature.get("center", 0.0)) / feature.get("scale", 1.0)
        for name, feature in FEATURES.items()
    ]
    names = np.arange(len(here)) if by_beat else here["patient"].to_numpy()
    return Hospital(np.stack(scaled, axis=1), here["ectopic"].to_numpy(), names)


def _areas(hospitals: Sequence[Hospital], weights: Array) -> Array:
    (judged,) = hospitals
    odds = log_odds(judged.inputs, weights)
    return np.array([roc_auc_score(judged.labels, column) for column in odds.T])
