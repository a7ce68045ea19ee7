"""What a task is to whoever trains and judges: a loss, and metrics as sums.

A hospital sends sums (records, loss, counts, histograms), never a metric: a mean of AUCs is not an
AUC, and a hospital's own accuracy is nobody's business.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the aggregator's supervisor reads sums, and needs no PyTorch
    from torch import Tensor

Sums = NDArray[np.float64]


class Task(Protocol):
    """Loss and metrics of one study.

    Attributes:
        whole: Whether `sums` must see all of a hospital's records at once, because it compares
            them with each other; else they may come in any pieces.
    """

    whole: bool = False

    @property
    @abstractmethod
    def size(self) -> int:
        """Length of the sums; the first of them counts records."""

    @property
    @abstractmethod
    def reals(self) -> tuple[int, ...]:
        """Places among the sums that hold no whole numbers, or very large ones."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What training makes small: the loss of each record, shape (n,).

        Where the study weights its classes, this loss has the weights and the one among the sums
        has not, so that models trained with different weights can be compared.

        Args:
            outputs: What the model says of them.
            labels: Their truth.
        """

    @abstractmethod
    def bounded(self, outputs: Tensor) -> Tensor:
        """Outputs that mean the same, and whose loss has a bound whatever they were.

        NaN and infinity, which nothing can be learnt from, become what a model says that knows
        nothing.
        """

    @abstractmethod
    def sums(self, outputs: Tensor, labels: Tensor) -> Sums:
        """The sums over these records, shape (size,)."""

    @abstractmethod
    def metrics(self, sums: Sums, threshold: float = 0.5) -> dict[str, Any]:
        """Metrics of everything that was added up; None where there is nothing to judge by."""

    def truth(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What outputs are compared with: the records' labels, or the records themselves."""
        del inputs
        return labels

    def threshold(self, validation: Sums | None) -> float:
        """The probability from which a finding is called; of no meaning where nothing is called.

        Args:
            validation: Sums over the validation part, for a study that chooses on it.
        """
        del validation
        return 0.5
