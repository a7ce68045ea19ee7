"""What a promise for records is worth to a patient: against the definition and accountants."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from tests.benchmarks.conftest import ModuleNamed


@pytest.fixture
def bounds(module_named: ModuleNamed) -> ModuleType:
    return module_named("dp_bounds")


@pytest.mark.parametrize(("sigma", "steps"), [(10.234375, 10), (2.0, 30), (1.0, 1)])
def test_the_exact_epsilon_is_just_below_the_accountants(
    bounds: ModuleType, sigma: float, steps: int
) -> None:
    exact = bounds.gaussian_epsilon(math.sqrt(steps) / sigma, 1e-4)
    found = epsilon_of([SampledGaussian(sigma, 1.0, steps)], 1e-4, "prv")

    assert exact <= found <= exact + 0.02


def test_the_exact_epsilon_is_that_of_two_gaussians(bounds: ModuleType) -> None:
    """delta(epsilon) is what the worst event has above e^epsilon times its chance elsewhere."""
    mu, delta = 1.3, 1e-3
    epsilon = bounds.gaussian_epsilon(mu, delta)
    grid = np.linspace(-12, 14, 2_000_001)
    here, there = (np.exp(-((grid - mean) ** 2) / 2) / math.sqrt(2 * math.pi) for mean in (mu, 0))
    above = np.maximum(0, here - math.exp(epsilon) * there)

    assert np.trapezoid(above, grid) == pytest.approx(delta, rel=1e-4)


def test_a_group_of_one_has_the_promise_itself(bounds: ModuleType) -> None:
    assert bounds.log10_delta_of_group(8.0, 1e-5, 1) == pytest.approx(-5)


def test_delta_of_a_group_is_the_sum_over_the_chain_of_neighbours(bounds: ModuleType) -> None:
    total = 1e-5 * sum(math.exp(0.5 * place) for place in range(7))

    assert bounds.log10_delta_of_group(0.5, 1e-5, 7) == pytest.approx(math.log10(total))


def test_the_largest_group_is_the_last_with_a_delta_below_one(bounds: ModuleType) -> None:
    size = bounds.largest_group(0.5, 1e-5)

    assert bounds.log10_delta_of_group(0.5, 1e-5, size) < 0
    assert bounds.log10_delta_of_group(0.5, 1e-5, size + 1) >= 0
    assert bounds.largest_group(8.0, 1e-5) == 2


def test_for_a_single_record_in_every_step_many_is_one(bounds: ModuleType) -> None:
    steps = SampledGaussian(4.0, 1.0, 9)

    assert bounds.epsilon_of_many(steps, 2e-4, 1) == pytest.approx(
        bounds.gaussian_epsilon(3 / 4, 1e-4)
    )


def test_the_proof_for_many_is_above_what_many_can_lose(bounds: ModuleType) -> None:
    """With everything sampled, all records of a patient are one of as many times the norm."""
    many = bounds.epsilon_of_many(SampledGaussian(50.0, 1.0, 4), 1e-3, 20)
    sampled = bounds.epsilon_of_many(SampledGaussian(50.0, 0.1, 4), 1e-3, 20)

    assert many > bounds.gaussian_epsilon(20 * 2 / 50, 1e-3)
    assert sampled < many
