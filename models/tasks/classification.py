"""Which of several classes a record is of: binary and multi-class classification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task
from fedward.study.task import ClassTask

_MOST_LOSS = 99.0  # before rounding, and before what 99 nats take from the other classes


class Classification(Task):
    """Binary and multi-class classification from logits of shape (n, classes).

    Average precision, Brier score and calibration error come from the histograms, as the AUC does;
    of several classes each is one against the rest, and the Brier score is the sum over classes.

    The sums are `[records, loss, confusion (classes x classes), histograms]`; a binary task has one
    pair of histograms, another has one pair for each class against the rest.
    """

    bins = scores.BINS

    def __init__(self, task: ClassTask) -> None:
        """Take the classes and the threshold from the study's task."""
        self._classes = len(task.classes)
        self._threshold = task.threshold
        self._binary = task.kind == "binary"
        self._scored = [1] if self._binary else list(range(self._classes))

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 2 + self._classes**2 + len(self._scored) * 2 * self.bins

    @property
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers."""
        return (1,)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of each record, shape (n,)."""
        return functional.cross_entropy(outputs, labels, reduction="none")

    def bounded(self, outputs: Tensor) -> Tensor:
        """Outputs that mean the same, and whose loss is at most 100 whatever they were.

        NaN and infinity, which nothing can be learnt from, become equal probabilities.

        Args:
            outputs: Logits, shape (n, classes).
        """
        known = outputs.isfinite().all(dim=1, keepdim=True)
        outputs = torch.where(known, outputs, outputs.new_zeros(()))
        return functional.log_softmax(outputs, dim=1).clamp(min=-_MOST_LOSS)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records.

        Args:
            outputs: Logits, shape (n, classes).
            labels: Class numbers, shape (n,), int64.
        """
        k = self._classes
        loss = self.loss(outputs, labels).double().sum().item()
        pairs = labels * k + outputs.argmax(dim=1)
        blocks = [np.array([len(labels), loss]), _numpy(torch.bincount(pairs, minlength=k * k))]
        for positive in self._scored:
            log_odds = log_odds_of(outputs, positive)
            blocks += [
                scores.histogram(log_odds[labels != positive]),
                scores.histogram(log_odds[labels == positive]),
            ]
        return np.concatenate(blocks)

    def threshold(self, validation: Sums | None) -> float:
        """The probability from which a binary task calls the finding.

        Args:
            validation: Sums over the validation part, for a study that chooses on it.
        """
        if isinstance(self._threshold, float):
            return self._threshold
        if validation is None or validation[0] == 0:
            return 0.5
        (pair,) = self._histograms(validation)
        balanced = self._threshold == "max_balanced_accuracy"
        return scores.probability_at(scores.best_edge(*pair, balanced=balanced), self.bins)

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Metrics of everything that was added up; None where there is nothing to judge by."""
        records = sums[0]
        if records == 0:
            return {"records": 0, "loss": None, "accuracy": None, "auc": None}
        pairs = self._histograms(sums)
        found: dict[str, Any] = {
            "records": round(records),
            "loss": float(sums[1] / records),
            "accuracy": self._accuracy(sums, threshold),
            "auc": scores.mean_of([scores.auc(*pair) for pair in pairs]),
            "f1": self._f1(sums, threshold),
        }
        if self._binary:
            found |= self._operating_point(sums, threshold)
        if self.bins == scores.BINS:  # fewer do not tell scores apart
            squares = sum(scores.squared_error(*pair) for pair in pairs)
            errors = [scores.calibration_error(*pair) for pair in pairs]
            found |= {
                "average_precision": scores.mean_of([scores.average_precision(*p) for p in pairs]),
                "brier": squares / float(records),
                "calibration_error": float(np.mean(errors)),
            }
        return found

    def _accuracy(self, sums: Sums, threshold: float) -> float:
        if self._binary:
            tn, _, _, tp = self._confusion(sums, threshold)
            return (tn + tp) / float(sums[0])
        confusion = sums[2 : 2 + self._classes**2].reshape(self._classes, self._classes)
        return float(confusion.trace() / sums[0])

    def _f1(self, sums: Sums, threshold: float) -> float | None:
        """Of the finding; of several classes the mean, if each is there or was called."""
        if self._binary:
            _, fp, fn, tp = self._confusion(sums, threshold)
            return scores.f1(fp, fn, tp)
        confusion = sums[2 : 2 + self._classes**2].reshape(self._classes, self._classes)
        right, truth, called = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        each = zip(called - right, truth - right, right, strict=True)
        return scores.mean_of([scores.f1(*map(float, counts)) for counts in each])

    def _operating_point(self, sums: Sums, threshold: float) -> dict[str, Any]:
        tn, fp, fn, tp = self._confusion(sums, threshold)
        return {
            "threshold": threshold,
            "sensitivity": tp / (tp + fn) if tp + fn else None,
            "specificity": tn / (tn + fp) if tn + fp else None,
            "precision": tp / (tp + fp) if tp + fp else None,
        }

    def _confusion(self, sums: Sums, threshold: float) -> tuple[float, float, float, float]:
        (pair,) = self._histograms(sums)
        return scores.confusion(*pair, scores.edge_of(threshold, self.bins))

    def _histograms(self, sums: Sums) -> list[tuple[Sums, Sums]]:
        flat = sums[2 + self._classes**2 :].reshape(-1, 2, self.bins)
        return [(pair[0], pair[1]) for pair in flat]


def log_odds_of(outputs: Tensor, positive: int) -> Tensor:
    """Log-odds of one class against all others together."""
    others = torch.cat([outputs[:, :positive], outputs[:, positive + 1 :]], dim=1)
    return outputs[:, positive] - torch.logsumexp(others, dim=1)


def _numpy(counts: Tensor) -> Sums:
    numbers: Sums = counts.double().cpu().numpy()
    return numbers
