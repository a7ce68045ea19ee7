"""From a budget to a noise multiplier and back, by Opacus' accountants.

One step of DP-SGD is a Poisson-subsampled Gaussian mechanism (sampling rate q, noise multiplier
sigma); the accountants compose many of them: `rdp` by Renyi orders (Mironov, Talwar and Zhang
2019), `prv` numerically (Gopi, Lee and Wutschitz 2021). What `prv` needs of memory grows with
epsilon, so from 100 on the bound by Renyi orders is taken, which holds as well.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from fedward.study.errors import OptionError

Accountant = Literal["prv", "rdp"]


_MOST_NOISE = 1e6  # a noise multiplier with which nothing is learnt
_FINEST = 1e-6  # by which two noise multipliers differ
_MOST_BY_PRV = 100.0  # epsilon; much above it nobody asks by how much


class SampledGaussian(NamedTuple):
    """A number of equal steps of DP-SGD: the event that accountants compose."""

    noise_multiplier: float
    sampling_rate: float
    steps: int


@functools.lru_cache(maxsize=256)
def calibrate(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant,
    beside: tuple[SampledGaussian, ...] = (),
) -> float:
    """The smallest noise multiplier found with which `steps` steps cost at most `epsilon`.

    Args:
        epsilon: Budget of all steps together, > 0.
        delta: In (0, 1).
        sampling_rate: In (0, 1].
        steps: How many, >= 1.
        accountant: Which accountant composes.
        beside: What else is paid from the budget, with noise that is settled.

    Raises:
        OptionError: The accountant finds no noise for this budget, or nothing is left of it.
    """
    if beside:
        return _calibrate_beside(epsilon, delta, sampling_rate, steps, accountant, beside)
    from opacus.accountants.utils import get_noise_multiplier  # brings PyTorch, which few need

    try:
        with _quiet():
            sigma: float = get_noise_multiplier(
                target_epsilon=epsilon,
                target_delta=delta,
                sample_rate=sampling_rate,
                steps=steps,
                accountant=accountant,
                epsilon_tolerance=min(0.01, epsilon / 100),
            )
    except (ValueError, RuntimeError) as error:
        other = "prv" if accountant == "rdp" else "rdp"
        raise OptionError(
            f"no noise found for epsilon {epsilon:g} in {steps} steps ({error})",
            todo=f'change [privacy] epsilon, or set accountant = "{other}"',
        ) from None
    return float(sigma)  # a doubling of Opacus' first guess is an int


def _calibrate_beside(
    epsilon: float,
    delta: float,
    sampling_rate: float,
    steps: int,
    accountant: Accountant,
    beside: tuple[SampledGaussian, ...],
) -> float:
    """By halving: Opacus' search knows one kind of step only."""

    def cost(noise: float) -> float:
        event = SampledGaussian(noise, sampling_rate, steps)
        return epsilon_of([*beside, event], delta, accountant)

    settled = epsilon_of(beside, delta, accountant)
    low = high = calibrate(epsilon, delta, sampling_rate, steps, accountant)
    while settled < epsilon and high < _MOST_NOISE and not cost(high) <= epsilon:
        low, high = high, 1.25 * high
    if not (settled < epsilon and high < _MOST_NOISE):
        raise OptionError(
            f"what else the study pays for costs epsilon {settled:.3g}, and too little is left of "
            f"{epsilon:g} to train with",
            todo="raise [privacy] statistics_noise_multiplier, evaluation_noise_multiplier or "
            "epsilon",
        )
    tolerance = min(0.01, epsilon / 100)
    while epsilon - cost(high) > tolerance and high - low > _FINEST * high:
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= epsilon else (middle, high)
    return high


def epsilon_of(history: Iterable[SampledGaussian], delta: float, accountant: Accountant) -> float:
    """Epsilon of all steps together at `delta`; 0 for none."""
    return _composed(_merged(history), delta, accountant)


def _merged(history: Iterable[SampledGaussian]) -> tuple[SampledGaussian, ...]:
    counts: dict[tuple[float, float], int] = {}
    for sigma, rate, steps in history:
        if steps == 0:
            continue
        counts[sigma, rate] = counts.get((sigma, rate), 0) + steps
    return tuple(SampledGaussian(*key, steps) for key, steps in sorted(counts.items()))


@functools.lru_cache(maxsize=4096)
def _composed(history: tuple[SampledGaussian, ...], delta: float, accountant: Accountant) -> float:
    if not history:
        return 0.0
    if accountant == "prv":
        bound = _composed(history, delta, "rdp")
        if not bound <= _MOST_BY_PRV:
            return bound
    from opacus.accountants import create_accountant  # brings PyTorch, which few need

    composer = create_accountant(accountant)
    composer.history = [tuple(event) for event in history]
    with _quiet():
        return float(composer.get_epsilon(delta=delta))


@contextmanager
def _quiet() -> Iterator[None]:
    """RDP warns where its range of orders ends, PRV where a density underflows: both stay valid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield
