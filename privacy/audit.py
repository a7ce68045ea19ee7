"""How much a training gives away at least, from guesses who was in it.

Each of m canary patients is in the training with probability 1/2, independently of the others.
Somebody who sees what the training gives out guesses for some of them whether they were in. Under
(epsilon, delta)-DP guesses are right hardly more often than a coin with heads at
e^epsilon / (1 + e^epsilon); whoever is right more often has disproved that epsilon. One training
is enough, for every canary is a trial of its own (Steinke, Nasr and Jagielski 2023, "Privacy
auditing with one (1) training run", arXiv 2305.08846).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CONFIDENCE = 0.95
"""Probability with which a lower bound is below the true epsilon, at least."""

_LADDER = (50, 100, 200, 500, 1000, 2000, 5000)
_HEADROOM = 0.5  # some guesses are wrong even where everything is given away


@dataclass(frozen=True)
class Guesses:
    """How a guesser did.

    Attributes:
        canaries: How many could have been in (m), >= 1.
        made: Guesses; of the other canaries nothing was said (r), in [0, m].
        right: Guesses that were right (v), in [0, r].
    """

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        """Raise ValueError if more are right than made, or more made than there are canaries."""
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"0 <= right <= made <= canaries, but {self}")


def guesses_made(canaries: int) -> int:
    """Of how many canaries an audit guesses something: half, for the others are too uncertain.

    It must not depend on what was seen, or the bound would not hold.
    """
    return canaries // 2


def guess(scores: Tensor, made: int) -> Tensor:
    """Guess the highest scores in, the lowest out, and say nothing of those between.

    Args:
        scores: Of each canary, shape (m,): the higher, the likelier it was in.
        made: Guesses, half of them in (rounded down), in [0, m].

    Returns:
        1 for in, -1 for out, 0 for no guess; shape (m,), int64.
    """
    order = scores.argsort(stable=True)
    guessed = torch.zeros(len(scores), dtype=torch.int64)
    guessed[order[len(scores) - made // 2 :]] = 1
    guessed[order[: made - made // 2]] = -1
    return guessed


def judged(guessed: Tensor, included: Tensor) -> Guesses:
    """Count the guesses that are right.

    Args:
        guessed: 1, -1 or 0 for each canary, shape (m,).
        included: Whether it was in, shape (m,), bool.
    """
    truth = torch.where(included, 1, -1)
    right = int((guessed == truth).sum())
    return Guesses(len(truth), int(guessed.count_nonzero()), right)


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Largest probability, under (epsilon, delta)-DP, of at least as many right guesses.

    Steinke et al. 2023, theorem 5.2 and corollary 5.4, computed as their appendix D does:
    beta + 2 m delta alpha, where W is binomial (r, e^epsilon / (1 + e^epsilon)),
    beta = P[W >= v] and alpha = max over i in 1..v of P[v > W >= v - i] / i.

    Args:
        guesses: What was found.
        epsilon: >= 0.
        delta: In [0, 1].
    """
    chance = _binomial(guesses.made, epsilon)
    beta = float(chance[guesses.right :].sum())
    nearly = chance[: guesses.right][::-1].cumsum()
    alpha = float((nearly / np.arange(1, guesses.right + 1)).max(initial=0.0))
    return min(1.0, beta + 2 * guesses.canaries * delta * alpha)


def lower_bound(guesses: Guesses, delta: float, *, confidence: float = CONFIDENCE) -> float:
    """The epsilon that the guesses disprove, 0 if none (Steinke et al. 2023, appendix D).

    If the training is (epsilon, delta)-DP, this is above epsilon with probability at most
    1 - confidence.

    Args:
        guesses: What was found.
        delta: In [0, 1].
        confidence: In (0, 1).
    """
    doubt = 1 - confidence
    low, high = 0.0, 1.0
    while p_value(guesses, high, delta) < doubt:
        high += 1
    for _ in range(30):
        middle = (low + high) / 2
        if p_value(guesses, middle, delta) < doubt:
            low = middle
        else:
            high = middle
    return low


def largest_bound(canaries: int, delta: float) -> float:
    """The lower bound that an audit with so many canaries finds if every guess is right."""
    made = guesses_made(canaries)
    return lower_bound(Guesses(canaries, made, right=made), delta)


def canaries_for(epsilon: float, delta: float, *, most: int) -> int | None:
    """A round number of canaries that can disprove this epsilon although some guesses are wrong.

    None if no number up to `most` can: with a delta above 0 the bound does not grow for ever.
    """
    numbers = (m for m in _LADDER if m <= most)
    return next((m for m in numbers if largest_bound(m, delta) >= epsilon + _HEADROOM), None)


def epsilon_for(canaries: int, delta: float) -> float | None:
    """A round epsilon that an audit with so many canaries can disprove; None if it can none."""
    found = largest_bound(canaries, delta) / 2
    if found < 0.01:
        return None
    place = 10.0 ** math.floor(math.log10(found))
    return round(math.floor(found / place) * place, 2)


def _binomial(trials: int, epsilon: float) -> NDArray[np.float64]:
    """P[W = w] for w in 0..trials at success probability e^epsilon / (1 + e^epsilon)."""
    heads = np.arange(trials + 1)
    ways = np.array([math.lgamma(w + 1) for w in range(trials + 1)])
    ways = ways[-1] - ways - ways[::-1]
    chance: NDArray[np.float64] = np.exp(
        ways - epsilon * (trials - heads) - trials * math.log1p(math.exp(-epsilon))
    )
    return chance
