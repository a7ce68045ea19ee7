"""What a promise for records is worth to a patient who has many of them."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import bdtrc, log_ndtr

from fedward.privacy.accounting import SampledGaussian


def gaussian_epsilon(mu: float, delta: float) -> float:
    """The exact epsilon of a Gaussian whose mean can move by `mu` standard deviations.

    Steps in which every patient takes part compose to one such Gaussian, with
    mu = sqrt(steps) / noise multiplier (Dong, Roth and Su 2022, corollaries 3.3 and 2.13).
    """

    def excess(epsilon: float) -> float:
        above = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        below = math.exp(min(0.0, epsilon + log_ndtr(-mu / 2 - epsilon / mu)))
        return above - below - delta

    largest = mu * mu / 2 + 40 * mu
    return float(brentq(excess, 0.0, largest, xtol=1e-9))  # type: ignore[no-untyped-call]


def log10_delta_of_group(epsilon: float, delta: float, size: int) -> float:
    """Logarithm of the delta that goes with `size * epsilon` for a group of this many records.

    Any two data sets that differ in a group are a chain of neighbours, so delta grows to
    delta * (1 + e^epsilon + ... + e^((size - 1) epsilon)).
    """
    terms = (size - 1) * epsilon + math.log1p(-math.exp(-size * epsilon))
    return (math.log(delta) + terms - math.log1p(-math.exp(-epsilon))) / math.log(10)


def largest_group(epsilon: float, delta: float) -> int:
    """The most records about which a promise for one record still says anything: delta < 1."""
    size = 1
    while log10_delta_of_group(epsilon, delta, size + 1) < 0:
        size += 1
    return size


def epsilon_of_many(steps: SampledGaussian, delta: float, records: int) -> float:
    """A proven epsilon for all `records` of one patient, where each is sampled by itself.

    Half of delta goes to steps with so many of them that they stay below that number m in all
    steps otherwise; each step is then a Gaussian whose mean can move by m clipping norms.
    """
    above = bdtrc(np.arange(records + 1), records, steps.sampling_rate)
    most = int(np.argmax(above <= delta / 2 / steps.steps))
    mu = most * math.sqrt(steps.steps) / steps.noise_multiplier
    return gaussian_epsilon(mu, delta / 2)
