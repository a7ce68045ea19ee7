"""Contributions add up to the weighted mean, and nothing that is no number gets in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.contribution import Layout, Summand
from fedward.privacy.plain_sum import PlainSum, plain_vector
from fedward.study.errors import FedwardError, TrainingError
from fedward.study.messages import Vector

NOT_FINITE = [float("nan"), float("inf"), -float("inf")]


def update(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def sums(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def contribution(
    update: Vector,
    weight: float,
    metrics: NDArray[np.float64],
    *,
    clipped: bool = False,
    capped: bool = False,
) -> Vector:
    """What a hospital sends that adds this."""
    return plain_vector(Summand(update, weight, metrics, clipped=clipped, capped=capped))


@given(
    hospitals=st.integers(1, 6),
    parameters=st.integers(0, 20),
    metrics=st.integers(0, 10),
    seed=st.integers(0, 10_000),
)
def test_the_total_is_the_weighted_mean_and_the_sum_of_the_metrics(
    hospitals: int, parameters: int, metrics: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    updates = rng.normal(0, 3, (hospitals, parameters)).astype(np.float32)
    weights = rng.integers(1, 5000, hospitals).astype(float)
    counted = rng.integers(0, 1000, (hospitals, metrics)).astype(float)

    total = PlainSum(Layout(parameters, metrics))
    for one in zip(updates, weights, counted, strict=True):
        total.add(contribution(*one))
    found = total.total()

    if parameters:
        expected = np.average(updates.astype(np.float64), axis=0, weights=weights)
        assert found.update == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert found.update.shape == (parameters,)
    assert found.weight == weights.sum()
    assert np.array_equal(found.metrics, counted.sum(axis=0))


def test_a_known_answer() -> None:
    total = PlainSum(Layout(parameters=2, metrics=1))
    total.add(contribution(update(1, 10), 1, sums(5)))
    total.add(contribution(update(4, -2), 3, sums(7)))

    found = total.total()

    assert found.update.tolist() == [(1 + 3 * 4) / 4, (10 - 3 * 2) / 4]
    assert found.weight == 4
    assert found.metrics.tolist() == [12]


def test_what_travels_is_the_weighted_update_then_the_head_and_then_the_metrics() -> None:
    vector = contribution(update(1, -2), 3, sums(5, 7), clipped=True)

    assert vector.tolist() == [3, -6, 3, 1, 0, 0, 5, 7]


def test_clipped_and_capped_hospitals_are_counted() -> None:
    total = PlainSum(Layout(1, 0))
    for clipped, capped in [(True, False), (True, True), (False, False), (True, False)]:
        total.add(contribution(update(1), 2.0, sums(), clipped=clipped, capped=capped))

    found = total.total()

    assert (found.clipped, found.capped) == (3, 1)
    assert found.update.tolist() == [1]


def test_the_order_of_contributions_does_not_matter() -> None:
    sent = [contribution(update(k, 1 / (k + 1)), k + 1, sums(k)) for k in range(5)]
    one, other = PlainSum(Layout(2, 1)), PlainSum(Layout(2, 1))
    for vector in sent:
        one.add(vector)
    for vector in reversed(sent):
        other.add(vector)

    assert one.total().update == pytest.approx(other.total().update, rel=1e-12)


def test_what_travels_is_as_long_as_the_layout_says() -> None:
    vector = contribution(update(1, 2, 3), 2.0, sums(4, 5))

    assert vector.dtype == np.float32
    assert vector.shape == (Layout(parameters=3, metrics=2).size,)


def test_nothing_added_is_zero() -> None:
    found = PlainSum(Layout(3, 2)).total()

    assert found.weight == 0
    assert found.update.tolist() == [0, 0, 0]
    assert found.metrics.tolist() == [0, 0]


def test_metrics_can_travel_without_an_update() -> None:
    total = PlainSum(Layout(parameters=0, metrics=2))
    total.add(contribution(update(), 0.0, sums(3, 4)))

    assert total.total().metrics.tolist() == [3, 4]
    assert total.total().update.shape == (0,)


def test_a_weight_of_zero_counts_nothing() -> None:
    total = PlainSum(Layout(1, 0))
    total.add(contribution(update(100), 0.0, sums()))
    total.add(contribution(update(2), 5.0, sums()))

    assert total.total().update.tolist() == [2]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_the_hospital_never_sends_what_is_not_finite(value: float) -> None:
    for arguments in [
        (update(1, value), 1.0, sums(0)),
        (update(1, 2), value, sums(0)),
        (update(1, 2), 1.0, sums(value)),
    ]:
        with pytest.raises(TrainingError, match="finite"):
            contribution(*arguments)


@pytest.mark.parametrize(
    ("vector", "weight", "metrics"),
    [
        (update(3e38), 10.0, sums(0)),
        (update(1), 1e300, sums(0)),
        (update(1), 1.0, sums(1e300)),
    ],
)
def test_the_hospital_never_sends_what_is_too_large_for_the_wire(
    vector: Vector, weight: float, metrics: NDArray[np.float64]
) -> None:
    with pytest.raises(TrainingError, match="finite"):
        contribution(vector, weight, metrics)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("value", NOT_FINITE)
def test_the_aggregator_refuses_what_is_not_finite_and_keeps_its_sum(
    value: float, place: int
) -> None:
    total = PlainSum(Layout(1, 1))
    total.add(contribution(update(2), 3.0, sums(4)))
    bad = update(1, 1, 0, 0, 0, 1)
    bad[place] = value

    with pytest.raises(TrainingError, match="finite"):
        total.add(bad)

    found = total.total()
    assert (found.update.tolist(), found.weight, found.metrics.tolist()) == ([2], 3, [4])


@pytest.mark.parametrize("length", [0, 1, 3, 5, 7])
def test_the_aggregator_refuses_another_length_and_keeps_its_sum(length: int) -> None:
    """A vector of one value would otherwise be added to every place."""
    total = PlainSum(Layout(1, 1))
    total.add(contribution(update(2), 3.0, sums(4)))

    with pytest.raises((FedwardError, ValueError)):
        total.add(np.ones(length, dtype=np.float32))

    found = total.total()
    assert (found.update.tolist(), found.weight, found.metrics.tolist()) == ([2], 3, [4])


@pytest.mark.parametrize("weight", [-1e-6, -3.0, -1e38])
def test_the_aggregator_refuses_a_negative_weight_and_keeps_its_sum(weight: float) -> None:
    """Otherwise one hospital could take another's weight away, or turn the mean round."""
    total = PlainSum(Layout(1, 1))
    total.add(contribution(update(2), 3.0, sums(4)))

    with pytest.raises(TrainingError, match="negative weight"):
        total.add(update(1, weight, 0, 0, 0, 1))

    found = total.total()
    assert (found.update.tolist(), found.weight, found.metrics.tolist()) == ([2], 3, [4])


def test_many_hospitals_are_added_without_losing_the_small_ones() -> None:
    """Sums are kept in double precision: a float32 sum would stop growing at 2**24."""
    total = PlainSum(Layout(0, 1))
    total.add(contribution(update(), 0.0, sums(2.0**24)))
    for _ in range(10):
        total.add(contribution(update(), 0.0, sums(1)))

    assert total.total().metrics.tolist() == [2.0**24 + 10]
