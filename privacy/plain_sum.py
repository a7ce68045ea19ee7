"""Adding up contributions in the clear.

A contribution is one flat vector, `[weight * update | weight | metric sums]`, so that whatever adds
contributions up need not know what is in them, and only the sum is ever taken apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.study.errors import TrainingError
from fedward.study.messages import Vector


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a contribution are.

    Attributes:
        parameters: Length of the update; 0 where only metrics travel.
        metrics: Length of the metric sums.
    """

    parameters: int
    metrics: int

    @property
    def size(self) -> int:
        """Length of the whole vector."""
        return self.parameters + 1 + self.metrics


@dataclass(frozen=True)
class Total:
    """The sum over hospitals, taken apart.

    Attributes:
        update: Weighted mean of the updates, shape (parameters,), float64.
        weight: Sum of the weights.
        metrics: Sum of the metric sums, shape (metrics,), float64.
    """

    update: NDArray[np.float64]
    weight: float
    metrics: NDArray[np.float64]


def contribution(update: Vector, weight: float, metrics: NDArray[np.float64]) -> Vector:
    """The vector that one hospital sends.

    Args:
        update: Trained model minus received model, shape (parameters,).
        weight: What the update counts in the mean, >= 0.
        metrics: Metric sums, shape (metrics,).

    Raises:
        TrainingError: A value is NaN or infinite: such an update must never reach a mean.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        weighted = update.astype(np.float64) * weight
        vector = np.concatenate([weighted, [weight], metrics]).astype(np.float32)
    if not np.isfinite(vector).all():
        raise TrainingError(
            "the update is not finite (NaN or infinity)",
            todo="lower [training] learning_rate, or check this hospital's data",
        )
    return vector


class PlainSum:
    """The aggregator's side: vectors are added as they come and dropped."""

    def __init__(self, layout: Layout) -> None:
        """Start from zero."""
        self._layout = layout
        self._sum = np.zeros(layout.size, dtype=np.float64)

    def add(self, vector: Vector) -> None:
        """Add one contribution.

        Raises:
            TrainingError: The vector has another length, a value that is not finite, or a negative
                weight; the sum is unchanged.
        """
        if vector.shape != self._sum.shape:
            raise TrainingError(
                "sent a vector of another length; it was left out",
                todo="run the same version of fedward on both sides",
            )
        if not np.isfinite(vector).all():
            raise TrainingError(
                "sent an update that is not finite (NaN or infinity); it was left out",
                todo="check that hospital's data and its version of fedward",
            )
        if vector[self._layout.parameters] < 0:
            raise TrainingError(
                "sent a negative weight; it was left out", todo="check that hospital's fedward"
            )
        self._sum += vector

    def total(self) -> Total:
        """Take the sum apart."""
        d = self._layout.parameters
        weight = float(self._sum[d])
        mean = self._sum[:d] / weight if weight > 0 else np.zeros(d)
        return Total(update=mean, weight=weight, metrics=self._sum[d + 1 :])
