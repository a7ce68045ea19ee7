"""Epsilon against closed forms and integration that share no code with the accountants."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant
from scipy.optimize import brentq
from scipy.special import ndtr

from fedward.privacy.accounting import Accountant, SampledGaussian, calibrate, epsilon_of
from fedward.study.errors import FedwardError, OptionError

DELTA = 1e-5
BOTH: tuple[Accountant, ...] = ("rdp", "prv")

event = st.builds(
    SampledGaussian,
    noise_multiplier=st.sampled_from([0.8, 1.0, 2.5]),
    sampling_rate=st.sampled_from([0.01, 0.1]),
    steps=st.integers(1, 50),
)


def gaussian_epsilon(sigma: float, steps: int, delta: float) -> float:
    """Exact, without sampling: steps compose to one of sigma / sqrt(steps); Balle and Wang 2018."""
    mu = math.sqrt(steps) / sigma

    def excess(epsilon: float) -> float:
        return float(
            ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * ndtr(-mu / 2 - epsilon / mu) - delta
        )

    return float(brentq(excess, 0, 200))  # type: ignore[no-untyped-call]


def density(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the standard normal distribution."""
    found: NDArray[np.float64] = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return found


def one_step_epsilon(sigma: float, rate: float, delta: float) -> float:
    """One sampled step by integration: the hockey-stick divergence, in the worse direction."""
    x = np.linspace(-12 * sigma, 12 * sigma + 1, 400_001)
    without = density(x / sigma) / sigma
    with_record = (1 - rate) * without + rate * density((x - 1) / sigma) / sigma

    def excess(epsilon: float) -> float:
        scale = math.exp(epsilon)
        there = np.trapezoid(np.maximum(with_record - scale * without, 0), x)
        back = np.trapezoid(np.maximum(without - scale * with_record, 0), x)
        return float(max(there, back)) - delta

    return float(brentq(excess, 0, 100))  # type: ignore[no-untyped-call]


# --- Epsilon --------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", BOTH)
def test_no_steps_cost_nothing(accountant: Accountant) -> None:
    assert epsilon_of([], DELTA, accountant) == 0.0


@pytest.mark.parametrize("accountant", BOTH)
def test_charges_without_steps_cost_nothing(accountant: Accountant) -> None:
    none, some = SampledGaussian(1.0, 0.1, 0), SampledGaussian(2.0, 0.1, 5)

    assert epsilon_of([none], DELTA, accountant) == 0.0
    assert epsilon_of([none, some], DELTA, accountant) == epsilon_of([some], DELTA, accountant)


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize(("sigma", "steps"), [(0.001, 1), (0.0, 3), (1.0, 10**6), (0.2, 50)])
def test_where_hardly_anything_is_hidden_prv_takes_no_memory_and_says_what_rdp_says(
    sigma: float, steps: int, rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own integration these take gigabytes, if they end at all."""

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("integrated")

    monkeypatch.setattr(PRVAccountant, "get_epsilon", forbidden)
    event = SampledGaussian(sigma, rate, steps)

    found = epsilon_of([event], DELTA, "prv")

    assert found > 100
    assert found == epsilon_of([event], DELTA, "rdp")


def test_up_to_a_hundred_prv_integrates() -> None:
    event = SampledGaussian(0.3, 0.5, 8)

    rdp, prv = (epsilon_of([event], DELTA, accountant) for accountant in BOTH)

    assert 60 < prv < rdp < 100


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 10), (10.0, 100)])
def test_prv_without_sampling_is_the_closed_form(sigma: float, steps: int) -> None:
    found = epsilon_of([SampledGaussian(sigma, 1.0, steps)], DELTA, "prv")

    assert found == pytest.approx(gaussian_epsilon(sigma, steps, DELTA), abs=0.03)


@pytest.mark.parametrize(("sigma", "rate"), [(0.7, 0.1), (1.0, 0.02), (1.0, 0.5), (3.0, 0.3)])
def test_prv_of_one_step_is_the_integral(sigma: float, rate: float) -> None:
    found = epsilon_of([SampledGaussian(sigma, rate, 1)], DELTA, "prv")

    assert found == pytest.approx(one_step_epsilon(sigma, rate, DELTA), abs=0.03)


@pytest.mark.parametrize(("sigma", "steps"), [(1.0, 1), (5.0, 10), (10.0, 100)])
def test_rdp_is_never_below_the_closed_form(sigma: float, steps: int) -> None:
    exact = gaussian_epsilon(sigma, steps, DELTA)

    assert exact <= epsilon_of([SampledGaussian(sigma, 1.0, steps)], DELTA, "rdp") <= 1.15 * exact


@pytest.mark.parametrize(
    ("sigma", "rate", "steps"),
    [(1.0, 0.1, 100), (2.0, 0.1, 1000), (1.0, 0.02, 2000), (4.0, 0.5, 50)],
)
def test_the_two_accountants_agree(sigma: float, rate: float, steps: int) -> None:
    rdp, prv = (epsilon_of([SampledGaussian(sigma, rate, steps)], DELTA, a) for a in BOTH)

    assert prv <= rdp <= 1.15 * prv


@pytest.mark.parametrize("accountant", BOTH)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise_and_delta(
    accountant: Accountant,
) -> None:
    def epsilon(
        sigma: float = 1.0, rate: float = 0.1, steps: int = 50, delta: float = DELTA
    ) -> float:
        return epsilon_of([SampledGaussian(sigma, rate, steps)], delta, accountant)

    assert epsilon(steps=1) < epsilon(steps=50) < epsilon(steps=51)
    assert epsilon(rate=0.05) < epsilon() < epsilon(rate=0.2)
    assert epsilon(sigma=2.0) < epsilon() < epsilon(sigma=0.8)
    assert epsilon(delta=1e-3) < epsilon() < epsilon(delta=1e-7)


@settings(max_examples=8)
@given(st.lists(event, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_neither_order_nor_grouping_of_charges_matters(
    history: list[SampledGaussian], random: Random
) -> None:
    shuffled = list(history)
    random.shuffle(shuffled)
    one_by_one = [e._replace(steps=1) for e in shuffled for _ in range(e.steps)]

    whole = epsilon_of(history, DELTA, "rdp")

    assert epsilon_of(shuffled, DELTA, "rdp") == whole
    assert epsilon_of(one_by_one, DELTA, "rdp") == whole


def test_for_prv_too_neither_order_nor_grouping_matters() -> None:
    a, b = SampledGaussian(1.0, 0.1, 30), SampledGaussian(2.0, 0.05, 40)
    apart = [b._replace(steps=15), a, b._replace(steps=25)]

    assert epsilon_of([a, b], DELTA, "prv") == epsilon_of(apart, DELTA, "prv")


@settings(max_examples=8)
@given(st.lists(event, max_size=3), event)
def test_another_charge_never_makes_epsilon_smaller(
    history: list[SampledGaussian], more: SampledGaussian
) -> None:
    assert epsilon_of([*history, more], DELTA, "rdp") >= epsilon_of(history, DELTA, "rdp")


def test_composing_is_far_cheaper_than_adding_epsilons() -> None:
    one = epsilon_of([SampledGaussian(1.0, 0.1, 1)], DELTA, "prv")

    assert epsilon_of([SampledGaussian(1.0, 0.1, 100)], DELTA, "prv") < 100 * one / 3


# --- Calibration ----------------------------------------------------------------------------------

PLANS: list[tuple[float, float, int, Accountant]] = [
    (1.0, 0.1, 100, "rdp"),
    (8.0, 0.05, 500, "rdp"),
    (0.5, 0.02, 2000, "rdp"),
    (3.0, 1.0, 20, "rdp"),
    (1.0, 0.1, 100, "prv"),
    (2.0, 0.2, 10, "prv"),
    (2.0, 1.0, 10, "prv"),
]


@pytest.mark.parametrize(("epsilon", "rate", "steps", "accountant"), PLANS)
def test_the_noise_found_spends_the_budget_and_no_more(
    epsilon: float, rate: float, steps: int, accountant: Accountant
) -> None:
    sigma = calibrate(epsilon, DELTA, rate, steps, accountant)

    spent = epsilon_of([SampledGaussian(sigma, rate, steps)], DELTA, accountant)
    assert 0.99 * epsilon <= spent <= epsilon


def test_more_steps_need_more_noise() -> None:
    noises = [calibrate(2.0, DELTA, 0.1, steps, "rdp") for steps in (10, 100, 1000)]

    assert noises == sorted(noises)
    assert noises[0] < noises[2]


def test_noise_without_sampling_is_near_the_closed_form() -> None:
    sigma = calibrate(2.0, DELTA, 1.0, 10, "prv")

    assert gaussian_epsilon(sigma, 10, DELTA) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
@pytest.mark.parametrize(("rate", "steps"), [(0.1, 100), (1.0, 10), (0.02, 1000)])
def test_a_small_budget_is_spent_nearly_whole(epsilon: float, rate: float, steps: int) -> None:
    sigma = calibrate(epsilon, DELTA, rate, steps, "prv")

    spent = epsilon_of([SampledGaussian(sigma, rate, steps)], DELTA, "prv")
    assert 0.99 * epsilon <= spent <= epsilon


def test_where_renyi_orders_end_the_other_accountant_is_advised() -> None:
    with pytest.raises(OptionError, match="no noise found") as caught:
        calibrate(0.05, DELTA, 0.1, 100, "rdp")

    assert 'accountant = "prv"' in str(caught.value)


def test_advice_never_names_the_accountant_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> float:
        raise RuntimeError("out of its range")

    monkeypatch.setattr("opacus.accountants.utils.get_noise_multiplier", fail)
    with pytest.raises(OptionError) as caught:
        calibrate(0.0123, DELTA, 0.1, 100, "prv")

    assert 'accountant = "rdp"' in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [30.0, 50.0])
@pytest.mark.parametrize("accountant", BOTH)
def test_a_generous_budget_is_no_trouble(epsilon: float, accountant: Accountant) -> None:
    """A study may name any epsilon up to 50: the answer is a noise, or a typed error."""
    try:
        sigma = calibrate(epsilon, DELTA, 0.5, 5, accountant)
    except FedwardError:
        return
    assert 0 < epsilon_of([SampledGaussian(sigma, 0.5, 5)], DELTA, accountant) <= epsilon
