"""Who was in the steps of a private training, beside what its charge takes for granted.

The charge is for a Poisson sample: each patient in each step with the charged probability, by a
coin of its own. A sampler that takes everybody, or a shuffled loader in its place, spends more than
is charged, and guesses of canaries may not show it. So the sample itself is counted, and three
figures are held against the binomial distributions that they have under Poisson sampling.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LEAST_CHANCE = 1e-6
"""What chance does less often than this was not done by chance."""


class Attendance:
    """Whose records were in each step; one for all rounds of a training.

    Attributes:
        patients: How many may be drawn.
        sizes: Patients in each step so far.
    """

    def __init__(self, patients: int) -> None:
        """Nobody was in a step yet."""
        self.patients = patients
        self.sizes: list[int] = []
        self._times = torch.zeros(patients, dtype=torch.int64)
        self._strangers = False

    @property
    def drawn(self) -> int:
        """Patients in all steps, each counted in every step that it was in."""
        return sum(self.sizes)

    def add(self, patients: Tensor) -> None:
        """Note one step.

        Args:
            patients: Numbers of the patients of its records, in 0 .. `patients` - 1.
        """
        there = patients.cpu().unique()
        self.sizes.append(len(there))
        self._strangers |= bool((there >= self.patients).any())
        self._times[there[there < self.patients]] += 1

    def chance(self, rate: float) -> float:
        """How often, at most, Poisson sampling at this rate looks as odd as this.

        The least of two-sided p-values of three figures: patients in all steps (by Chernoff's
        bound), the step and the patient that are furthest from the mean (exactly, for steps and
        patients are independent). It is 0 where somebody is drawn who is no patient, and at most
        three times as likely to be below a number as that number says.

        Args:
            rate: In (0, 1].
        """
        if self._strangers:
            return 0.0
        steps = len(self.sizes)
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        return min(
            _total(self.drawn, self.patients * steps, rate),
            _furthest(sizes, self.patients, rate),
            _furthest(self._times.double(), steps, rate),
        )


def _total(found: int, trials: int, rate: float) -> float:
    """Two-sided p-value of a binomial number, at most: Chernoff's bound."""
    if not trials:
        return 1.0
    share = found / trials
    parts = [(share, rate), (1 - share, 1 - rate)]
    if any(there and not wanted for there, wanted in parts):
        return 0.0  # whom the rate leaves no choice about
    divergence = sum(there * math.log(there / wanted) for there, wanted in parts if there)
    return min(1.0, 2 * math.exp(-trials * divergence))


def _furthest(found: Tensor, trials: int, rate: float) -> float:
    """Two-sided p-value of the furthest from the mean of independent binomial numbers.

    Both an odd one among them and numbers that are too even are unlikely.
    """
    if not len(found) or not trials:
        return 1.0
    far = (torch.arange(trials + 1) - trials * rate).abs()
    furthest, chance = float((found - trials * rate).abs().max()), _binomial(trials, rate)
    nearer, as_near = (
        float(chance[far <= furthest + slack].sum().clamp(max=1)) ** len(found)
        for slack in (-1e-6, 1e-6)
    )
    return min(1.0, 2 * min(as_near, 1 - nearer))


def _binomial(trials: int, rate: float) -> Tensor:
    """P[k] for k in 0..trials, float64."""
    if rate == 1:
        return (torch.arange(trials + 1) == trials).double()
    k = torch.arange(trials + 1, dtype=torch.float64)
    ways = torch.lgamma(k + 1)
    ways = ways[-1] - ways - ways.flip(0)
    return (ways + k * math.log(rate) + (trials - k) * math.log1p(-rate)).exp()
