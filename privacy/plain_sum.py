"""Adding up contributions in the clear."""

from __future__ import annotations

import numpy as np

from fedward.privacy.contribution import HEAD, Layout, Summand, Total, not_finite
from fedward.study.errors import TrainingError
from fedward.study.messages import Vector


def plain_vector(summand: Summand) -> Vector:
    """The vector that one hospital sends where everybody may read it, float32.

    Raises:
        TrainingError: A value is NaN or infinite: such an update must never reach a mean.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        weighted = summand.update.astype(np.float64) * summand.weight
        vector = np.concatenate([weighted, summand.head, summand.metrics]).astype(np.float32)
    if not np.isfinite(vector).all():
        raise not_finite()
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
        return _apart(self._sum, self._layout)

    def each(self) -> list[Total]:
        """What the server's optimizer is given: the mean alone."""
        return [self.total()]


class EachApart(PlainSum):
    """Every contribution is kept, for a strategy that compares them."""

    def __init__(self, layout: Layout) -> None:
        """Start with none."""
        super().__init__(layout)
        self._kept: list[Vector] = []

    def add(self, vector: Vector) -> None:
        """Add one contribution and keep it.

        Raises:
            TrainingError: As for a sum.
        """
        super().add(vector)
        self._kept.append(vector.copy())

    def each(self) -> list[Total]:
        """Every contribution by itself, in the order in which they came."""
        return [_apart(vector.astype(np.float64), self._layout) for vector in self._kept]


def _apart(vector: np.ndarray[tuple[int], np.dtype[np.float64]], layout: Layout) -> Total:
    d = layout.parameters
    weight, *marks = map(float, vector[d : d + HEAD])
    mean = vector[:d] / weight if weight > 0 else np.zeros(d)
    return Total(mean, weight, vector[d + HEAD :], *map(round, marks))
