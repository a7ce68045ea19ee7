"""Histograms of scores, from which AUC and operating points follow after they are added up.

A binary model's score is its log-odds z; it is counted in one of 1024 bins that are equally wide in
sigmoid(z / 4). The logistic squeeze gives fine bins where classes overlap; the factor 4 keeps
confident scores (|z| around 15) apart too. The middle edge is z = 0, a probability of one half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS = 1024
_SQUEEZE = 4.0

Counts = NDArray[np.float64]


def bin_of(log_odds: Tensor, bins: int = BINS) -> Tensor:
    """The bin of each score, shape (n,), int64."""
    return (torch.sigmoid(log_odds.double() / _SQUEEZE) * bins).long().clamp(0, bins - 1)


def histogram(log_odds: Tensor) -> Counts:
    """Scores in each bin, shape (1024,)."""
    counts: Counts = torch.bincount(bin_of(log_odds), minlength=BINS).double().cpu().numpy()
    return counts


def auc(negatives: Counts, positives: Counts) -> float | None:
    """Area under the ROC curve, a tie within a bin counted one half; None if a class is empty.

    Mann and Whitney 1947: the probability that a positive scores above a negative.
    """
    pairs = negatives.sum() * positives.sum()
    if pairs == 0:
        return None
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / pairs)


def average_precision(negatives: Counts, positives: Counts) -> float | None:
    """Sum over bins, from the top, of precision times growth of recall; None without positives.

    As scikit-learn's `average_precision_score`, with scores of one bin for ties.
    """
    if positives.sum() == 0:
        return None
    tp, fp = positives[::-1].cumsum(), negatives[::-1].cumsum()
    precision = tp / np.maximum(tp + fp, 1)
    return float((positives[::-1] * precision).sum() / positives.sum())


def f1(false_positives: float, false_negatives: float, true_positives: float) -> float | None:
    """Harmonic mean of precision and recall; None where nothing is there and nothing is called."""
    counted = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / counted if counted else None


def precision_recall(
    false_positives: float, false_negatives: float, true_positives: float
) -> tuple[float | None, float | None]:
    """Right ones among those called, and those called among those there.

    Known where F1 is, so that means over classes are of the same ones: of nothing called, or of
    nothing there, 0 is right, as with scikit-learn's `zero_division=0`; None where both.
    """
    called, there = true_positives + false_positives, true_positives + false_negatives
    if not called and not there:
        return None, None
    return true_positives / called if called else 0.0, true_positives / there if there else 0.0


def squared_error(negatives: Counts, positives: Counts) -> float:
    """Sum of (probability - truth)^2, the probability being that of the middle of a score's bin.

    Divided by the records it is the Brier score (Brier 1950). With 1024 bins a probability is
    within 0.002 of the score's own.
    """
    p = probabilities(len(negatives))
    return float(negatives @ p**2 + positives @ (1 - p) ** 2)


def calibration_error(negatives: Counts, positives: Counts, groups: int = 10) -> float:
    """Expected calibration error, in equally wide groups of probabilities (Naeini et al. 2015).

    The mean over records of |share of positives - mean probability| in the record's group.
    """
    p = probabilities(len(negatives))
    group = np.minimum((p * groups).astype(int), groups - 1)
    expected = np.bincount(group, p * (negatives + positives), groups)
    seen = np.bincount(group, positives, groups)
    records = negatives.sum() + positives.sum()
    return float(np.abs(expected - seen).sum() / max(records, 1))


def mean_of(values: Sequence[float | None]) -> float | None:
    """Their mean; None if one is not known, or there are none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None


def probabilities(bins: int = BINS) -> Counts:
    """The probability in the middle of each bin, shape (bins,)."""
    inside = (np.arange(bins) + 0.5) / bins
    found: Counts = 1 / (1 + (1 / inside - 1) ** _SQUEEZE)
    return found


def edge_of(probability: float, bins: int = BINS) -> int:
    """The bin edge nearest to a probability: scores in bins from it on are called positive."""
    z = math.log(probability / (1 - probability))
    return round(bins / (1 + math.exp(-z / _SQUEEZE)))


def probability_at(edge: int, bins: int = BINS) -> float:
    """The probability that a bin edge stands for."""
    inside = min(max(edge, 0.25), bins - 0.25) / bins
    z = _SQUEEZE * math.log(inside / (1 - inside))
    return 1 / (1 + math.exp(-z))


def confusion(negatives: Counts, positives: Counts, edge: int) -> tuple[float, float, float, float]:
    """True negatives, false positives, false negatives, true positives at an edge."""
    tn, fn = negatives[:edge].sum(), positives[:edge].sum()
    return float(tn), float(negatives.sum() - tn), float(fn), float(positives.sum() - fn)


def best_edge(negatives: Counts, positives: Counts, *, balanced: bool) -> int:
    """The edge with the highest accuracy, or balanced accuracy; the middle one among equals."""
    tn = np.concatenate([[0.0], np.cumsum(negatives)])
    tp = positives.sum() - np.concatenate([[0.0], np.cumsum(positives)])
    shares = positives.sum() or 1, negatives.sum() or 1
    value = tn * shares[0] + tp * shares[1] if balanced else tn + tp
    best = np.flatnonzero(value >= value.max() * (1 - 1e-12))
    return int(best[len(best) // 2])
