"""Curves of what was counted: from histograms that hospitals' sums came to, exactly."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.models import scores

Numbers = NDArray[np.float64]


class Curve(NamedTuple):
    """Points of a line, in the order in which they are drawn.

    Attributes:
        x: Shape (n,).
        y: Shape (n,).
    """

    x: Numbers
    y: Numbers


class Group(NamedTuple):
    """Patients or records of similar risk, and what became of them.

    Attributes:
        name: Of the group.
        records: How many there are at time 0.
        survival: Time, and the share without the event until then.
    """

    name: str
    records: float
    survival: Curve


def roc(negatives: Numbers, positives: Numbers) -> Curve | None:
    """False positive rate and sensitivity at every edge; None where a class is empty.

    With straight lines between the points, the area below is `scores.auc`.
    """
    if not negatives.sum() or not positives.sum():
        return None
    return Curve(_falling(negatives) / negatives.sum(), _falling(positives) / positives.sum())


def precision_recall(negatives: Numbers, positives: Numbers) -> Curve | None:
    """Recall and precision at every edge that calls somebody; None without positives.

    As steps that stand at the precision of their right end, the area below is
    `scores.average_precision`.
    """
    if not positives.sum():
        return None
    fp, tp = _falling(negatives), _falling(positives)
    called = fp + tp > 0
    fp, tp = fp[called], tp[called]
    precision, recall = tp / (tp + fp), tp / positives.sum()
    return Curve(np.r_[0.0, recall], np.r_[precision[:1], precision])


def reliability(negatives: Numbers, positives: Numbers, groups: int = 10) -> tuple[Curve, Numbers]:
    """Mean probability and share of positives, in equally wide groups of probabilities.

    Returns:
        A point for each group that is not empty, and how many records each has.
    """
    p = scores.probabilities(len(negatives))
    group = np.minimum((p * groups).astype(int), groups - 1)
    records: Numbers = np.bincount(group, negatives + positives, groups).astype(np.float64)
    there = records > 0
    expected = np.bincount(group, p * (negatives + positives), groups)[there] / records[there]
    seen = np.bincount(group, positives, groups)[there] / records[there]
    return Curve(expected, seen), records[there]


def survival_by_risk(counts: Numbers, ends: Numbers, names: tuple[str, ...]) -> list[Group]:
    """Life-table survival (Cutler and Ederer 1958) of groups of risk that are about equally large.

    In each bin of time, whoever was last seen there counts as watched for half of it.

    Args:
        counts: Records by risk, time and whether the event was seen, shape (risks, times, 2).
        ends: Of the bins of time but the last, shape (times - 1,).
        names: Of the groups, from low risk to high.
    """
    before = np.cumsum(counts.sum(axis=(1, 2))) - counts.sum(axis=(1, 2)) / 2
    group = np.minimum((before / max(counts.sum(), 1) * len(names)).astype(int), len(names) - 1)
    found = []
    for number, name in enumerate(names):
        own: Numbers = counts[group == number].sum(axis=0)
        if own.sum():
            found.append(Group(name, float(own.sum()), _survival(own, ends)))
    return found


def _survival(own: Numbers, ends: Numbers) -> Curve:
    lost, events = own[:-1, 0], own[:-1, 1]
    at_risk = own.sum(axis=1)[::-1].cumsum()[::-1][:-1]
    watched = np.maximum(at_risk - lost / 2, 1e-12)
    alive = np.cumprod(1 - np.minimum(events / watched, 1.0))
    seen = at_risk > 0  # nothing is known of times that nobody reached
    return Curve(np.r_[0.0, ends[seen]], np.r_[1.0, alive[seen]])


def _falling(counts: Numbers) -> Numbers:
    """How many are in the highest 0, 1, ... bins."""
    return np.concatenate([[0.0], counts[::-1].cumsum()])
