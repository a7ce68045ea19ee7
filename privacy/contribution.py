"""What one hospital adds to a round, and what the sum over hospitals comes to.

A contribution is one flat vector, so that whatever adds contributions up need not know what is in
them, and only the sum is ever taken apart:

    [ weight * update | weight, clipped, capped, failed | metric sums ]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.clipping import clip_norm
from fedward.study.aggregation import Aggregation, QFedAvg
from fedward.study.errors import TrainingError
from fedward.study.messages import Vector

HEAD = 4
"""Numbers between the update and the metric sums: weight, clipped, capped, failed."""

_LEAST_LOSS = 1e-10  # so that a loss of 0 has a power, as in the authors' code


@dataclass(frozen=True)
class Layout:
    """Where the blocks of a contribution are.

    Attributes:
        parameters: Length of the update; 0 where only metrics travel.
        metrics: Length of the metric sums.
        reals: Places among the metric sums that hold no whole numbers.
    """

    parameters: int
    metrics: int
    reals: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Length of the whole vector."""
        return self.parameters + HEAD + self.metrics

    def of_models(self, number: int) -> Layout:
        """The same with the metric sums of several models, one after another."""
        starts = range(0, number * self.metrics, self.metrics or 1)
        reals = tuple(start + place for start in starts for place in self.reals)
        return Layout(self.parameters, number * self.metrics, reals)

    def with_more(self, size: int, reals: tuple[int, ...]) -> Layout:
        """The same with so many more sums after the metric sums, `reals` counted among them."""
        places = (*self.reals, *(self.metrics + place for place in reals))
        return Layout(self.parameters, self.metrics + size, places)


@dataclass(frozen=True)
class Summand:
    """What one hospital adds, within the study's bounds.

    Attributes:
        update: Trained model minus received model, shape (parameters,), norm at most the study's.
        weight: What the update counts in the mean, >= 0.
        metrics: Metric sums, shape (metrics,).
        clipped: Whether the update was longer than the study allows.
        capped: Whether the hospital would weigh more than the study allows.
        failed: Whether it could not do its work; it then adds nothing else.
        left: Called once the summand is in the form in which it leaves, and before it does.
    """

    update: Vector
    weight: float
    metrics: NDArray[np.float64]
    clipped: bool = False
    capped: bool = False
    failed: bool = False
    left: Callable[[], None] = field(default=lambda: None, compare=False, repr=False)

    @property
    def head(self) -> NDArray[np.float64]:
        """Weight, clipped, capped and failed as numbers, shape (4,)."""
        marks = (self.clipped, self.capped, self.failed)
        return np.array([self.weight, *marks], dtype=np.float64)


@dataclass(frozen=True)
class Total:
    """The sum over hospitals, taken apart.

    Attributes:
        update: Weighted mean of the updates, shape (parameters,), float64.
        weight: Sum of the weights.
        metrics: Sum of the metric sums, shape (metrics,), float64.
        clipped: Hospitals whose update was clipped.
        capped: Hospitals that weigh less than they would without the study's cap.
        failed: Hospitals that could not do their work.
    """

    update: NDArray[np.float64]
    weight: float
    metrics: NDArray[np.float64]
    clipped: int = 0
    capped: int = 0
    failed: int = 0


def trained(
    update: Vector, records: float, metrics: NDArray[np.float64], terms: Aggregation
) -> Summand:
    """What a hospital adds that trained, cut to the study's bounds.

    Args:
        update: Trained model minus received model, shape (parameters,).
        records: What the hospital's records count, before the study's cap.
        metrics: Metric sums, shape (metrics,).
        terms: The study's.

    Raises:
        TrainingError: The update is NaN or infinite: it must never reach a mean.
    """
    within = _within(update, terms)
    uniform = terms.weighting == "uniform"
    weight = 1.0 if uniform else min(float(records), float(terms.largest_weight))
    capped = not uniform and weight < records
    return Summand(within, weight, metrics, clipped=within is not update, capped=capped)


def trained_fairly(
    update: Vector, loss: float, metrics: NDArray[np.float64], terms: QFedAvg, *, rate: float
) -> Summand:
    """What a hospital adds that trained under q-FFL (Li et al. 2020, algorithm 2).

    Args:
        update: Trained model minus received model, shape (parameters,).
        loss: Mean loss of the received model over its training records, >= 0.
        metrics: Metric sums, shape (metrics,).
        terms: The study's.
        rate: The hospital's learning rate, 1 / L.

    Raises:
        TrainingError: The update is NaN or infinite: it must never reach a mean.
    """
    within = _within(update, terms)
    loss += _LEAST_LOSS
    square = float(np.dot(within.astype(np.float64), within))
    with np.errstate(over="ignore"):
        own, slope = np.power(np.float64(loss), [terms.q, terms.q - 1])
        weight = float(own + terms.q * square / rate * slope)
    if not weight < np.inf:
        raise not_finite()
    shrunk = (within.astype(np.float64) * (own / weight)).astype(np.float32)
    capped = weight > terms.max_weight
    weight = min(weight, float(terms.max_weight))
    return Summand(shrunk, weight, metrics, clipped=within is not update, capped=capped)


def judged(metrics: NDArray[np.float64]) -> Summand:
    """What a hospital adds that only judged a model: metric sums, shape (metrics,)."""
    return Summand(np.zeros(0, dtype=np.float32), 0.0, metrics)


def _within(update: Vector, terms: Aggregation) -> Vector:
    try:
        return clip_norm(update, terms.clip)
    except ValueError:
        raise not_finite() from None


def failed(layout: Layout) -> Summand:
    """What a hospital adds that could not do its work: that it could not."""
    nothing = np.zeros(layout.parameters, dtype=np.float32)
    return Summand(nothing, 0.0, np.zeros(layout.metrics), failed=True)


def not_finite() -> TrainingError:
    """The error for what must never reach a mean."""
    return TrainingError(
        "the update is not finite (NaN or infinity)",
        todo="lower [training] learning_rate, or check this hospital's data",
    )
