"""From guesses to a lower bound on epsilon: the published figures, and never above the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedward.privacy.audit import (
    Guesses,
    canaries_for,
    epsilon_for,
    guess,
    guesses_made,
    judged,
    largest_bound,
    lower_bound,
    p_value,
)

BINOMIAL = vars(stats)["binom"]  # its stubs do not name it


@st.composite
def some_guesses(draw: st.DrawFn) -> Guesses:
    canaries = draw(st.integers(1, 300))
    made = draw(st.integers(0, canaries))
    return Guesses(canaries, made, draw(st.integers(0, made)))


# --- Guessing -------------------------------------------------------------------------------------


def test_the_highest_are_guessed_in_and_the_lowest_out() -> None:
    scores = torch.tensor([0.1, 5.0, -3.0, 0.0, 2.0, -9.0])

    assert guess(scores, 4).tolist() == [0, 1, -1, 0, 1, -1]
    assert guess(scores, 3).tolist() == [0, 1, -1, 0, 0, -1]
    assert guess(scores, 0).tolist() == [0] * 6
    assert guess(scores, 6).tolist() == [1, 1, -1, -1, 1, -1]


@given(st.integers(0, 40), st.data())
def test_as_many_guesses_are_made_as_asked_for(canaries: int, data: st.DataObject) -> None:
    made = data.draw(st.integers(0, canaries))
    scores = torch.tensor(
        data.draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=canaries, max_size=canaries))
    )

    guessed = guess(scores, made)

    assert int(guessed.count_nonzero()) == made
    assert int((guessed == 1).sum()) == made // 2


def test_guesses_are_judged_by_who_was_there() -> None:
    guessed = torch.tensor([1, -1, 1, -1, 0, 0])
    included = torch.tensor([True, False, False, True, True, False])

    assert judged(guessed, included) == Guesses(canaries=6, made=4, right=2)


@pytest.mark.parametrize("numbers", [(5, 6, 1), (5, 3, 4), (5, 3, -1)])
def test_impossible_numbers_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="right <= made <= canaries"):
        Guesses(*numbers)


# --- The bound, against figures from elsewhere ----------------------------------------------------


@pytest.mark.parametrize(
    ("guesses", "delta", "printed"),
    [
        (Guesses(1000, 100, 75), 1e-4, 0.673),  # appendix D
        (Guesses(100_000, 1510, 1439), 1e-5, 2.675),  # section 7
    ],
)
def test_the_bound_is_what_the_paper_prints(guesses: Guesses, delta: float, printed: float) -> None:
    assert lower_bound(guesses, delta) == pytest.approx(printed, abs=1e-3)


@pytest.mark.parametrize("made", [1, 10, 50, 500])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_all_right_without_delta_has_a_closed_form(made: int, confidence: float) -> None:
    chance = (1 - confidence) ** (1 / made)  # at which all are right with probability 1 - c
    by_hand = max(0.0, math.log(chance / (1 - chance)))

    found = lower_bound(Guesses(made, made, made), 0.0, confidence=confidence)

    assert found == pytest.approx(by_hand, abs=1e-6)


@given(some_guesses(), st.floats(0, 8))
def test_without_delta_it_is_a_binomial_test(guesses: Guesses, epsilon: float) -> None:
    chance = 1 / (1 + math.exp(-epsilon))
    by_scipy = BINOMIAL(guesses.made, chance).sf(guesses.right - 1)

    assert p_value(guesses, epsilon, 0.0) == pytest.approx(by_scipy, rel=1e-9, abs=1e-12)


@given(some_guesses(), st.floats(0, 8), st.floats(0, 0.1))
def test_delta_adds_the_term_of_the_theorem(guesses: Guesses, epsilon: float, delta: float) -> None:
    right, chance = guesses.right, 1 / (1 + math.exp(-epsilon))
    below = BINOMIAL(guesses.made, chance).cdf
    alpha = max(
        ((below(right - 1) - below(right - i - 1)) / i for i in range(1, right + 1)), default=0.0
    )
    beta = 1 - below(right - 1)

    expected = min(1.0, beta + 2 * guesses.canaries * delta * alpha)

    assert p_value(guesses, epsilon, delta) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("right", [0, 25, 50])
def test_half_right_or_fewer_disprove_nothing(right: int) -> None:
    assert lower_bound(Guesses(200, 100, right), 1e-5) == 0.0


def test_no_guess_disproves_nothing() -> None:
    assert lower_bound(Guesses(10, 0, 0), 1e-5) == 0.0
    assert largest_bound(1, 1e-5) == 0.0


# --- What makes it larger -------------------------------------------------------------------------


@given(some_guesses(), st.floats(0, 0.01))
def test_one_more_right_guess_does_not_lower_the_bound(guesses: Guesses, delta: float) -> None:
    if guesses.right == guesses.made:
        return
    more = Guesses(guesses.canaries, guesses.made, guesses.right + 1)

    assert lower_bound(more, delta) >= lower_bound(guesses, delta) - 1e-6


@given(some_guesses())
def test_a_larger_delta_does_not_raise_the_bound(guesses: Guesses) -> None:
    bounds = [lower_bound(guesses, delta) for delta in (0.0, 1e-6, 1e-4, 1e-2, 0.5)]

    assert bounds == sorted(bounds, reverse=True)


@given(some_guesses())
def test_more_confidence_does_not_raise_the_bound(guesses: Guesses) -> None:
    bounds = [lower_bound(guesses, 1e-5, confidence=c) for c in (0.5, 0.9, 0.95, 0.999)]

    assert bounds == sorted(bounds, reverse=True)


@given(some_guesses(), st.sampled_from([0.0, 1e-5, 1e-3]))
def test_the_bound_is_where_the_p_value_passes_the_doubt(guesses: Guesses, delta: float) -> None:
    bound = lower_bound(guesses, delta)

    assert bound == 0.0 or p_value(guesses, bound, delta) < 0.05
    assert p_value(guesses, bound + 1e-6, delta) >= 0.05 - 1e-6


# --- It is hardly ever above the truth ------------------------------------------------------------

RUNS = 4000
BY_CHANCE = 3 * math.sqrt(0.05 * 0.95 / RUNS)


def share_above(truth: float, delta: float, canaries: int, right: np.ndarray, made: int) -> float:
    """How many of the runs have a bound above the truth."""
    above = {v: lower_bound(Guesses(canaries, made, v), delta) > truth for v in set(right.tolist())}
    return float(np.mean([above[v] for v in right.tolist()]))


@pytest.mark.parametrize("truth", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("canaries", [20, 100, 1000])
def test_of_randomized_response_it_is_above_in_one_of_twenty(truth: float, canaries: int) -> None:
    rng = np.random.default_rng(canaries)
    right = rng.binomial(canaries, 1 / (1 + math.exp(-truth)), RUNS)

    share = share_above(truth, 0.0, canaries, right, canaries)

    assert share <= 0.05 + BY_CHANCE
    assert canaries < 1000 or share > 0.03  # no wider than it must be


@pytest.mark.parametrize("truth", [0.5, 2.0])
def test_of_randomized_response_that_may_tell_the_truth_with_delta(truth: float) -> None:
    rng, delta, canaries = np.random.default_rng(1), 1e-2, 60
    told = rng.random((RUNS, canaries)) < delta
    answered = rng.random((RUNS, canaries)) < 1 / (1 + math.exp(-truth))
    right = (told | answered).sum(axis=1)

    assert share_above(truth, delta, canaries, right, canaries) <= 0.05 + BY_CHANCE


def test_of_a_mechanism_that_tells_everything_with_delta() -> None:
    rng, delta, canaries, truth = np.random.default_rng(2), 0.04, 200, 0.3
    right = rng.binomial(canaries, 1 / (1 + math.exp(-truth)), RUNS)
    right[rng.random(RUNS) < delta] = canaries

    assert share_above(truth, delta, canaries, right, canaries) <= 0.05 + BY_CHANCE


@pytest.mark.parametrize("truth", [0.2, 1.0])
def test_of_guesses_for_the_most_certain_half(truth: float) -> None:
    """A Laplace mechanism on each canary's bit; the scores decide who is guessed."""
    rng, canaries, runs = np.random.default_rng(3), 200, 1000
    made, right = guesses_made(canaries), []
    for _ in range(runs):
        included = rng.random(canaries) < 0.5
        scores = included + rng.laplace(scale=1 / truth, size=canaries)
        found = judged(guess(torch.from_numpy(scores), made), torch.from_numpy(included))
        right.append(found.right)

    above = share_above(truth, 0.0, canaries, np.array(right), made)

    assert above <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


# --- What to ask for instead ----------------------------------------------------------------------


def test_more_canaries_can_show_more() -> None:
    bounds = [largest_bound(m, 1e-9) for m in (10, 50, 200, 1000, 5000)]

    assert bounds == sorted(bounds)
    assert bounds[-1] == pytest.approx(math.log(2500 / 3), abs=0.01)


def test_with_delta_the_bound_does_not_grow_for_ever() -> None:
    assert max(largest_bound(m, 1e-3) for m in (200, 500, 2000, 5000)) < 3


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 1e-3), (2.0, 1e-5), (4.0, 1e-6)])
def test_the_canaries_advised_can_show_the_epsilon(epsilon: float, delta: float) -> None:
    advised = canaries_for(epsilon, delta, most=5000)

    assert advised is not None
    assert largest_bound(advised, delta) >= epsilon + 0.5


def test_no_canaries_are_advised_where_none_would_do() -> None:
    assert canaries_for(8.0, 1e-3, most=5000) is None
    assert canaries_for(2.0, 1e-5, most=50) is None


@pytest.mark.parametrize("canaries", [20, 50, 200, 1000])
@pytest.mark.parametrize("delta", [1e-6, 1e-3])
def test_the_epsilon_advised_can_be_shown_with_room_for_mistakes(
    canaries: int, delta: float
) -> None:
    advised = epsilon_for(canaries, delta)

    assert advised is not None
    assert 0 < advised <= largest_bound(canaries, delta) / 2
    assert advised == float(f"{advised:.0e}")  # one digit


def test_no_epsilon_is_advised_where_none_can_be_shown() -> None:
    assert epsilon_for(2, 1e-5) is None
    assert epsilon_for(200, 0.5) is None
