"""A number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedward.models.tasks.any_task import Sums, Task
from fedward.study.task import RegressionTask

_LARGEST = 10.0


class Regression(Task):
    """A number between public bounds, which the model sees mapped to -1 to 1.

    Outputs have shape (n, 1). The sums are `[records, squared errors, absolute errors, numbers,
    their squares]`, all of mapped numbers; metrics are in the number's own unit, but the loss.
    """

    def __init__(self, task: RegressionTask) -> None:
        """Take the bounds from the study's task."""
        low, high = task.bounds
        self._middle, self._half = (low + high) / 2, (high - low) / 2

    @property
    def size(self) -> int:
        """Length of the sums."""
        return 5

    @property
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers."""
        return (1, 2, 3, 4)

    def mapped(self, labels: Tensor) -> Tensor:
        """Numbers in their own unit, cut to the bounds and mapped to -1 to 1, shape (n,)."""
        return ((labels - self._middle) / self._half).clamp(-1, 1)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the mapped number, shape (n,)."""
        return (outputs[:, 0] - self.mapped(labels)).square()

    def bounded(self, outputs: Tensor) -> Tensor:
        """Outputs of at most 10, the middle where they were not finite."""
        known = torch.where(outputs.isfinite(), outputs, outputs.new_zeros(()))
        return known.clamp(-_LARGEST, _LARGEST)

    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records."""
        truth = self.mapped(labels.double())
        error = outputs[:, 0].double() - truth
        each = torch.stack([error.square(), error.abs(), truth, truth.square()])
        return np.concatenate([[len(labels)], each.sum(dim=1).cpu().numpy()])

    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Mean absolute error, root of the mean squared error, and R2."""
        del threshold
        records, squares, absolute, total, total_squares = map(float, sums)
        if records == 0:
            return {"records": 0, "loss": None, "mae": None, "rmse": None, "r2": None}
        spread = total_squares - total**2 / records
        differ = records > 1 and spread > 1e-4  # less is what rounding the sums may come to
        return {
            "records": round(records),
            "loss": squares / records,
            "mae": self._half * absolute / records,
            "rmse": self._half * math.sqrt(max(squares, 0.0) / records),
            "r2": 1 - squares / spread if differ else None,
        }
