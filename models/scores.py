"""Histograms of scores, from which AUC and operating points follow after they are added up.

A binary model's score is its log-odds z; it is counted in one of 1024 bins that are equally wide in
sigmoid(z / 4). The logistic squeeze gives fine bins where classes overlap; the factor 4 keeps
confident scores (|z| around 15) apart too. The middle edge is z = 0, a probability of one half.
"""

from __future__ import annotations

import math

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
