"""What a hospital adds is cut to the study's bounds, and says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.contribution import (
    Layout,
    Summand,
    failed,
    judged,
    trained,
    trained_fairly,
)
from fedward.study.aggregation import FedAvg, QFedAvg
from fedward.study.errors import TrainingError
from fedward.study.messages import Vector

SUMS = np.array([7.0, 0.25])
NOT_FINITE = [math.nan, math.inf, -math.inf]


def update(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def norm(vector: Vector) -> float:
    return math.sqrt(sum(float(v) ** 2 for v in vector))


def fair(q: float, *, max_weight: int = 1_000_000, clip: float = 1e6) -> QFedAvg:
    return QFedAvg(strategy="qfedavg", q=q, max_weight=max_weight, clip=clip)


vectors = st.lists(st.floats(-1e3, 1e3, width=32), max_size=30).map(
    lambda values: np.array(values, dtype=np.float32)
)


# --- Clipping -------------------------------------------------------------------------------------


@given(vectors, st.floats(1e-3, 1e4))
def test_no_update_is_longer_than_the_clip_and_a_short_one_stays_as_it_is(
    given_update: Vector, clip: float
) -> None:
    summand = trained(given_update, 5, SUMS, FedAvg(clip=clip))

    assert norm(summand.update) <= clip
    if summand.clipped:
        assert norm(given_update) > clip
        assert norm(summand.update) == pytest.approx(clip, rel=1e-6)
        shrunk = given_update * (clip / norm(given_update))
        assert summand.update == pytest.approx(shrunk, rel=1e-5, abs=1e-30)
    else:
        assert norm(given_update) <= clip * (1 + 1e-12)
        assert np.array_equal(summand.update, given_update)


def test_an_update_of_exactly_the_clip_is_not_clipped() -> None:
    summand = trained(update(3, 4), 5, SUMS, FedAvg(clip=5.0))

    assert not summand.clipped
    assert summand.update.tolist() == [3, 4]


def test_a_longer_update_keeps_its_direction() -> None:
    summand = trained(update(30, -40), 5, SUMS, FedAvg(clip=5.0))

    assert summand.clipped
    assert summand.update == pytest.approx([3, -4], rel=1e-6)


def test_clipping_leaves_the_given_update_alone() -> None:
    given_update = update(30, 40)

    trained(given_update, 5, SUMS, FedAvg(clip=5.0))

    assert given_update.tolist() == [30, 40]


@pytest.mark.parametrize("value", NOT_FINITE)
def test_an_update_that_is_not_finite_is_refused_and_never_clipped_to_something(
    value: float,
) -> None:
    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        trained(update(1, value), 5, SUMS, FedAvg())
    with pytest.raises(TrainingError, match=r"not finite.*learning_rate"):
        trained_fairly(update(1, value), 1.0, SUMS, fair(1), rate=0.1)


# --- Weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "weight", "capped"), [(1, 1, False), (99, 99, False), (100, 100, False)]
)
def test_a_hospital_counts_its_records_up_to_the_study_s_largest_number(
    records: int, weight: float, capped: bool
) -> None:
    summand = trained(update(1), records, SUMS, FedAvg(max_records=100))

    assert (summand.weight, summand.capped) == (weight, capped)


@pytest.mark.parametrize("records", [101, 10**9])
def test_a_larger_hospital_counts_as_the_largest_and_says_so(records: int) -> None:
    summand = trained(update(1), records, SUMS, FedAvg(max_records=100))

    assert (summand.weight, summand.capped) == (100, True)


@pytest.mark.parametrize("records", [1, 10**9])
def test_under_uniform_weighting_everybody_counts_once_and_nobody_is_capped(records: int) -> None:
    terms = FedAvg(weighting="uniform", max_records=100)

    summand = trained(update(1), records, SUMS, terms)

    assert (summand.weight, summand.capped) == (1, False)


def test_flags_are_independent_of_each_other() -> None:
    terms = FedAvg(clip=1.0, max_records=10)
    flags = {
        (long, many): trained(update(9 if long else 0.5), 99 if many else 5, SUMS, terms)
        for long in (False, True)
        for many in (False, True)
    }

    for (long, many), summand in flags.items():
        assert (summand.clipped, summand.capped) == (long, many)
        assert summand.head.tolist() == [10.0 if many else 5.0, float(long), float(many), 0]


def test_metric_sums_pass_as_they_are() -> None:
    assert trained(update(1), 5, SUMS, FedAvg()).metrics is SUMS
    assert judged(SUMS).metrics is SUMS


def test_who_only_judges_adds_no_update_and_no_weight() -> None:
    summand = judged(SUMS)

    assert summand.update.shape == (0,)
    assert summand.head.tolist() == [0, 0, 0, 0]


@given(st.integers(0, 9), st.integers(0, 9))
def test_who_could_not_do_its_work_adds_nothing_but_that(parameters: int, metrics: int) -> None:
    summand = failed(Layout(parameters, metrics))

    assert summand.update.tolist() == [0] * parameters
    assert summand.metrics.tolist() == [0] * metrics
    assert summand.head.tolist() == [0, 0, 0, 1]


# --- Fairness (Li et al. 2020, q-FFL) -------------------------------------------------------------


@given(
    q=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    rate=st.sampled_from([0.01, 0.1, 1.0]),
    seed=st.integers(0, 2**32),
    hospitals=st.integers(1, 5),
)
def test_the_weighted_mean_is_the_step_of_the_paper(
    q: float, rate: float, seed: int, hospitals: int
) -> None:
    """Algorithm 2: sum of F^q dw over the sum of q F^(q-1) |dw|^2 + L F^q, where dw = -L u."""
    rng = np.random.default_rng(seed)
    updates = rng.normal(0, 0.3, (hospitals, 4)).astype(np.float32)
    losses = rng.uniform(0.05, 3.0, hospitals)
    summands = [
        trained_fairly(u, float(f), SUMS, fair(q), rate=rate)
        for u, f in zip(updates, losses, strict=True)
    ]

    weights = np.array([s.weight for s in summands])
    found = sum(s.weight * s.update.astype(np.float64) for s in summands) / weights.sum()

    lipschitz = 1 / rate
    moved = -lipschitz * updates.astype(np.float64)
    squares = (moved**2).sum(axis=1)
    delta = (losses[:, None] ** q * moved).sum(axis=0)
    h = (q * losses ** (q - 1) * squares + lipschitz * losses**q).sum()
    assert found == pytest.approx(-delta / h, rel=1e-4, abs=1e-9)
    assert not any(s.capped for s in summands)


def test_with_q_of_zero_every_hospital_counts_once_whatever_its_loss() -> None:
    for loss in (0.0, 0.3, 50.0):
        summand = trained_fairly(update(0.5, -0.5), loss, SUMS, fair(0), rate=0.1)

        assert summand.weight == 1
        assert summand.update.tolist() == [0.5, -0.5]


def test_a_known_fair_summand() -> None:
    """q = 1, L = 2, F = 3, |u|^2 = 25: weight 3 + 2 * 25 = 53, and the mean is over 3 u / 53."""
    summand = trained_fairly(update(3, 4), 3.0, SUMS, fair(1), rate=0.5)

    assert summand.weight == pytest.approx(53)
    assert summand.update == pytest.approx([9 / 53, 12 / 53])


def test_a_fair_weight_above_the_study_s_is_capped_and_says_so() -> None:
    summand = trained_fairly(update(3, 4), 3.0, SUMS, fair(1, max_weight=50), rate=0.5)

    assert (summand.weight, summand.capped) == (50, True)
    assert summand.update == pytest.approx([9 / 53, 12 / 53])


def test_fairness_counts_the_update_as_it_was_clipped() -> None:
    """|u| is 1 after clipping: weight 3 + 2 * 1 = 5."""
    summand = trained_fairly(update(30, 40), 3.0, SUMS, fair(1, clip=1.0), rate=0.5)

    assert summand.clipped
    assert summand.weight == pytest.approx(5, rel=1e-6)
    assert summand.update == pytest.approx([0.6 * 3 / 5, 0.8 * 3 / 5], rel=1e-6)


@pytest.mark.parametrize("q", [0.5, 1, 10])
def test_a_loss_of_zero_has_a_finite_weight(q: float) -> None:
    summand = trained_fairly(update(0.5), 0.0, SUMS, fair(q), rate=0.1)

    assert 0 <= summand.weight < math.inf
    assert np.isfinite(summand.update).all()


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_refused(loss: float) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        trained_fairly(update(0.5), loss, SUMS, fair(1), rate=0.1)


# --- The layout -----------------------------------------------------------------------------------


@given(st.integers(0, 99), st.integers(0, 99))
def test_a_layout_is_the_update_the_head_and_the_metrics(parameters: int, metrics: int) -> None:
    head: NDArray[np.float64] = Summand(update(), 1.0, SUMS).head

    assert Layout(parameters, metrics).size == parameters + len(head) + metrics


def test_the_sums_of_several_models_follow_each_other() -> None:
    one = Layout(0, 4, (1, 3))

    assert one.of_models(1) == one
    assert one.of_models(3) == Layout(0, 12, (1, 3, 5, 7, 9, 11))
    assert Layout(5, 0).of_models(2) == Layout(5, 0)
