"""Which of several findings a record has: none, one or many."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task
from fedward.models.tasks.classification import weights_of
from fedward.study.task import MultilabelTask

_LARGEST = 99.0
_JUDGED = ("auc", "average_precision", "f1", "precision", "recall")


class Multilabel(Task):
    """One probability for each finding, from logits of shape (n, classes).

    The sums are `[records, loss, histograms]`: for each finding the scores of the records without
    it, then of those with it.
    """

    def __init__(self, task: MultilabelTask) -> None:
        """Take the findings and the threshold from the study's task."""
        self._names = task.classes
        self._threshold = task.threshold
        self._weights = weights_of(task)

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 2 + len(self._names) * 2 * scores.BINS

    @property
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers."""
        return (1,)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, the mean over findings, shape (n,); those there have weights.

        Args:
            outputs: Logits, shape (n, classes).
            labels: 0 or 1, shape (n, classes), float32.
        """
        weights = None if self._weights is None else self._weights.to(outputs)
        return _cross_entropy(outputs, labels, weights)

    def bounded(self, outputs: Tensor) -> Tensor:
        """Logits of at most 99, 0 where they were not finite; a loss is then at most 100."""
        known = torch.where(outputs.isfinite(), outputs, outputs.new_zeros(()))
        return known.clamp(-_LARGEST, _LARGEST)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records."""
        loss = _cross_entropy(outputs, labels, None).double().sum().item()
        blocks = [np.array([len(labels), loss])]
        for column in range(len(self._names)):
            has = labels[:, column] > 0.5
            blocks += [scores.histogram(outputs[some, column]) for some in (~has, has)]
        return np.concatenate(blocks)

    def threshold(self, validation: Sums | None) -> float:
        """The study's."""
        del validation
        return self._threshold

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Means over findings, and each finding's own; None where a finding cannot be judged."""
        records = sums[0]
        if records == 0:
            return {"records": 0, "loss": None, **dict.fromkeys(_JUDGED)}
        each = {
            name: _judged(*pair, threshold)
            for name, pair in zip(self._names, self.scored(sums), strict=True)
        }
        means = {
            metric: scores.mean_of([found[metric] for found in each.values()]) for metric in _JUDGED
        }
        loss = float(sums[1] / records)
        return {
            "records": round(records),
            "loss": loss,
            **means,
            "threshold": threshold,
            "classes": each,
        }

    def scored(self, sums: Sums) -> list[tuple[Sums, Sums]]:
        """Scores of the records without each finding and with it, shape (bins,) each."""
        flat = sums[2:].reshape(-1, 2, scores.BINS)
        return [(pair[0], pair[1]) for pair in flat]

    def table(self, sums: Sums, threshold: float = 0.5) -> Sums:
        """For each finding: true negatives, false positives, false negatives, true positives."""
        edge = scores.edge_of(threshold)
        return np.array([scores.confusion(*pair, edge) for pair in self.scored(sums)])


def _cross_entropy(outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    each = functional.binary_cross_entropy_with_logits(
        outputs, labels, pos_weight=weights, reduction="none"
    )
    return each.mean(dim=1)


def _judged(negatives: Sums, positives: Sums, threshold: float) -> dict[str, float | None]:
    _, fp, fn, tp = scores.confusion(negatives, positives, scores.edge_of(threshold))
    precision, recall = scores.precision_recall(fp, fn, tp)
    return {
        "auc": scores.auc(negatives, positives),
        "average_precision": scores.average_precision(negatives, positives),
        "f1": scores.f1(fp, fn, tp),
        "precision": precision,
        "recall": recall,
    }
