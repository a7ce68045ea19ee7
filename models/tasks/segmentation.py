"""What is where in an image or a volume."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedward.models import scores
from fedward.models.tasks.any_task import Sums, Task
from fedward.models.tasks.classification import weights_of
from fedward.study.task import SegmentationTask

_MOST_LOSS = 99.0


class Segmentation(Task):
    """A class for each pixel, from logits of shape (n, classes, *size).

    The sums are `[records, loss, and for each class pixels that are right, called, true]`.
    """

    def __init__(self, task: SegmentationTask) -> None:
        """Take the classes from the study's task; the first is the background."""
        self._names = task.classes
        self._overlap = task.loss == "dice"
        self._weights = weights_of(task)

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 2 + 3 * len(self._names)

    @property
    def reals(self) -> tuple[int, ...]:
        """All but the records: pixels are whole, but there are more than a word has room for."""
        return tuple(range(1, self.size))

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean weighted cross-entropy of a record's pixels, and its soft Dice loss, shape (n,).

        The Dice loss (Milletari et al. 2016, without squares) is 1 - (2 I + 1) / (P + T + 1), the
        mean over the classes beside the background, for each record by itself.

        Args:
            outputs: Logits, shape (n, classes, *size).
            labels: Class numbers, shape (n, *size), uint8 or int64.
        """
        weights = None if self._weights is None else self._weights.to(outputs)
        return self._loss(outputs, labels, weights)

    def _loss(self, outputs: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        labels = labels.long()  # of a batch: a whole data set is kept in bytes
        each = functional.cross_entropy(outputs, labels, weight=weights, reduction="none")
        crossed = each.flatten(1).mean(dim=1)
        if not self._overlap:
            return crossed
        called = outputs.softmax(dim=1).flatten(2)[:, 1:]
        truth = self._one_hot(labels).to(called.dtype)[:, 1:]
        both = (called * truth).sum(dim=2)
        dice = (2 * both + 1) / (called.sum(dim=2) + truth.sum(dim=2) + 1)
        return crossed + 1 - dice.mean(dim=1)

    def bounded(self, outputs: Tensor) -> Tensor:
        """Outputs that mean the same, with a loss of at most 101; a broken pixel knows nothing."""
        known = outputs.isfinite().all(dim=1, keepdim=True)
        outputs = torch.where(known, outputs, outputs.new_zeros(()))
        return functional.log_softmax(outputs, dim=1).clamp(min=-_MOST_LOSS)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records."""
        loss = self._loss(outputs, labels, None).double().sum().item()
        called, k = outputs.argmax(dim=1), len(self._names)
        counts = [
            torch.bincount(some.flatten(), minlength=k)
            for some in (labels[called == labels], called, labels)
        ]
        pixels = torch.stack(counts, dim=1).double().cpu().numpy()
        return np.concatenate([[len(labels), loss], pixels.flatten()])

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Dice over all pixels together: of each class, and their mean beside the background."""
        del threshold
        records = sums[0]
        if records == 0:
            return {"records": 0, "loss": None, "dice": None, "accuracy": None}
        pixels = sums[2:].reshape(-1, 3)
        each = {
            name: _overlap(*map(float, counts))
            for name, counts in zip(self._names, pixels, strict=True)
        }
        findings = [each[name]["dice"] for name in self._names[1:]]
        right, _, true = pixels.sum(axis=0)
        return {
            "records": round(records),
            "loss": float(sums[1] / records),
            "dice": scores.mean_of(findings),
            "accuracy": float(right / true),
            "classes": each,
        }

    def _one_hot(self, labels: Tensor) -> Tensor:
        """Shape (n, classes, pixels)."""
        classes = torch.arange(len(self._names), device=labels.device)
        return labels.flatten(1).unsqueeze(1) == classes.view(1, -1, 1)


def _overlap(right: float, called: float, true: float) -> dict[str, float | None]:
    """Dice and intersection over union of a class; None where nobody has it and nobody calls it."""
    both, either = called + true, called + true - right
    return {"dice": 2 * right / both if both else None, "iou": right / either if either else None}
