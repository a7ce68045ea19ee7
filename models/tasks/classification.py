"""Which of several classes a record is of: binary and multi-class classification."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task
from fedward.study.task import ClassTask, MultilabelTask, SegmentationTask

_MOST_LOSS = 99.0  # before rounding, and before what 99 nats take from the other classes


class Classification(Task):
    """Binary and multi-class classification from logits of shape (n, classes).

    Average precision, Brier score and calibration error come from the histograms, as the AUC does;
    of several classes each is one against the rest, and the Brier score is the sum over classes.
    F1 is of the finding; of several classes it, precision and recall are means over them.

    The sums are `[records, loss, confusion (classes x classes), histograms]`; a binary task has one
    pair of histograms, another has one pair for each class against the rest.
    """

    bins = scores.BINS

    def __init__(self, task: ClassTask) -> None:
        """Take the classes and the threshold from the study's task."""
        self._classes = len(task.classes)
        self._threshold = task.threshold
        self._weights = weights_of(task)
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
        """Cross-entropy of each record times the weight of its class, shape (n,)."""
        weights = None if self._weights is None else self._weights.to(outputs)
        return functional.cross_entropy(outputs, labels, weight=weights, reduction="none")

    def plain_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
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
        loss = self.plain_loss(outputs, labels).double().sum().item()
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
        }
        found |= self._operating_point(sums, threshold) if self._binary else self._macro(sums)
        if self.bins == scores.BINS:  # fewer do not tell scores apart
            squares = sum(scores.squared_error(*pair) for pair in pairs)
            errors = [scores.calibration_error(*pair) for pair in pairs]
            found |= {
                "average_precision": scores.mean_of([scores.average_precision(*p) for p in pairs]),
                "brier": squares / float(records),
                "calibration_error": float(np.mean(errors)),
            }
        return found

    def scored(self, sums: Sums) -> list[tuple[Sums, Sums]]:
        """Scores of the records without a class and with it, shape (bins,) each.

        Of a binary task there is one pair, of the finding; of another one pair for each class.
        """
        return self._histograms(sums)

    def table(self, sums: Sums, threshold: float = 0.5) -> Sums:
        """Records by the class that they have and the one they are called, shape (k, k)."""
        if self._binary:
            return np.array(self._confusion(sums, threshold)).reshape(2, 2)
        return sums[2 : 2 + self._classes**2].reshape(self._classes, self._classes)

    def _accuracy(self, sums: Sums, threshold: float) -> float:
        if self._binary:
            tn, _, _, tp = self._confusion(sums, threshold)
            return (tn + tp) / float(sums[0])
        confusion = sums[2 : 2 + self._classes**2].reshape(self._classes, self._classes)
        return float(confusion.trace() / sums[0])

    def _macro(self, sums: Sums) -> dict[str, Any]:
        """Means over classes, if each is there or was called."""
        confusion = sums[2 : 2 + self._classes**2].reshape(self._classes, self._classes)
        right, truth, called = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        each = np.stack([called - right, truth - right, right], axis=1).tolist()
        pairs = [scores.precision_recall(*counts) for counts in each]
        return {
            "f1": scores.mean_of([scores.f1(*counts) for counts in each]),
            "precision": scores.mean_of([precision for precision, _ in pairs]),
            "recall": scores.mean_of([recall for _, recall in pairs]),
        }

    def _operating_point(self, sums: Sums, threshold: float) -> dict[str, Any]:
        tn, fp, fn, tp = self._confusion(sums, threshold)
        return {
            "f1": scores.f1(fp, fn, tp),
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


def weights_of(task: ClassTask | MultilabelTask | SegmentationTask) -> Tensor | None:
    """The study's class weights, shape (classes,), float32; None if all classes count alike."""
    return None if task.class_weights is None else torch.tensor(task.class_weights)


def log_odds_of(outputs: Tensor, positive: int) -> Tensor:
    """Log-odds of one class against all others together."""
    others = torch.cat([outputs[:, :positive], outputs[:, positive + 1 :]], dim=1)
    return outputs[:, positive] - torch.logsumexp(others, dim=1)


def _numpy(counts: Tensor) -> Sums:
    numbers: Sums = counts.double().cpu().numpy()
    return numbers
