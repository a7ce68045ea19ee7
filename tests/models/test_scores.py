"""Histograms of scores against scikit-learn and brute force over the scores themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from fedward.models import scores
from fedward.models.scores import (
    BINS,
    auc,
    best_edge,
    confusion,
    edge_of,
    histogram,
    probability_at,
)

Floats = NDArray[np.float64]
Scores = tuple[Floats, Floats]  # of the negatives, of the positives


def drawn(kind: str, seed: int, size: int = 4000) -> Scores:
    """Log-odds of negatives and positives."""
    rng = np.random.default_rng(seed)
    few = size // 20
    found: dict[str, Callable[[], Scores]] = {
        "good": lambda: (rng.normal(-1, 1, size), rng.normal(1, 1, size)),
        "useless": lambda: (rng.normal(0, 1, size), rng.normal(0, 1, size)),
        "wrong": lambda: (rng.normal(1, 1, size), rng.normal(-1, 1, size)),
        "few positives": lambda: (rng.normal(-1, 1, size), rng.normal(0, 1, few)),
        "skewed": lambda: (rng.exponential(1, size) - 4, rng.exponential(2, size) - 3),
        "confident": lambda: (rng.normal(-12, 4, size), rng.normal(12, 4, size)),
        "confident and wrong": lambda: (rng.normal(9, 4, size), rng.normal(12, 4, size)),
        "timid": lambda: (rng.normal(-0.05, 0.2, size), rng.normal(0.05, 0.2, size)),
        "tied": lambda: (
            rng.choice([-2.0, 0.0, 1.0], size, p=[0.6, 0.3, 0.1]),
            rng.choice([-2.0, 0.0, 1.0], size, p=[0.2, 0.3, 0.5]),
        ),
    }
    return found[kind]()


KINDS = [
    *("good", "useless", "wrong", "few positives", "skewed", "confident", "confident and wrong"),
    *("timid", "tied"),
]


def counts(found: Scores) -> tuple[scores.Counts, scores.Counts]:
    return histogram(torch.from_numpy(found[0])), histogram(torch.from_numpy(found[1]))


def labelled(found: Scores) -> tuple[Floats, Floats]:
    """True labels and log-odds of all, one after the other."""
    truth = np.concatenate([np.zeros(len(found[0])), np.ones(len(found[1]))])
    return truth, np.concatenate(found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KINDS)
def test_the_auc_from_histograms_is_that_of_scikit_learn(kind: str, seed: int) -> None:
    found = drawn(kind, seed)

    assert auc(*counts(found)) == pytest.approx(roc_auc_score(*labelled(found)), abs=0.002)


def test_a_tie_counts_half() -> None:
    assert auc(*counts((np.zeros(3), np.zeros(5)))) == 0.5
    assert auc(*counts((np.array([0.0, 1.0]), np.array([1.0])))) == 0.75


def test_perfect_and_worst_order_are_one_and_zero() -> None:
    low, high = np.array([-3.0, -2.0]), np.array([2.0, 3.0])

    assert auc(*counts((low, high))) == 1.0
    assert auc(*counts((high, low))) == 0.0


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
def test_there_is_no_auc_without_both_classes(sizes: tuple[int, int]) -> None:
    assert auc(*counts((np.zeros(sizes[0]), np.zeros(sizes[1])))) is None


@given(
    hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(-(2.0**99), 2.0**99, width=32))
)
def test_every_finite_score_is_counted_once(log_odds: NDArray[np.float32]) -> None:
    found = histogram(torch.from_numpy(log_odds))

    assert found.shape == (BINS,)
    assert found.sum() == len(log_odds)


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), 1e30, -1e30])
def test_extreme_scores_are_in_the_outermost_bins(value: float) -> None:
    found = histogram(torch.tensor([value]))

    assert found[BINS - 1 if value > 0 else 0] == 1


@given(st.floats(-100, 100), st.floats(-100, 100))
def test_a_higher_score_is_never_in_a_lower_bin(one: float, other: float) -> None:
    low, high = sorted([one, other])

    assert histogram(torch.tensor([low])).argmax() <= histogram(torch.tensor([high])).argmax()


# --- Edges ----------------------------------------------------------------------------------------


def test_every_edge_has_a_probability_that_leads_back_to_it() -> None:
    assert [edge_of(probability_at(edge)) for edge in range(BINS + 1)] == list(range(BINS + 1))


def test_the_middle_edge_is_one_half() -> None:
    assert edge_of(0.5) == BINS // 2
    assert probability_at(BINS // 2) == 0.5


def test_probabilities_rise_with_their_edges() -> None:
    probabilities = [probability_at(edge) for edge in range(BINS + 1)]

    assert np.all(np.diff(probabilities) > 0)
    assert 0 < probabilities[0] < probabilities[-1] < 1


@pytest.mark.parametrize("probability", [1e-12, 0.01, 0.3, 0.5, 0.7, 0.99, 1 - 1e-12])
def test_an_edge_is_near_its_probability(probability: float) -> None:
    log_odds = np.log(probability / (1 - probability))
    near = histogram(torch.tensor([log_odds], dtype=torch.float64)).argmax()

    assert abs(edge_of(probability) - near) <= 1


# --- Calling the finding --------------------------------------------------------------------------


def called(found: Scores, edge: int) -> NDArray[np.bool_]:
    """Which records are called positive at an edge: by the scores, not the histogram."""
    _, log_odds = labelled(found)
    return 1 / (1 + np.exp(-log_odds / 4)) * BINS >= edge


@pytest.mark.parametrize("edge", [0, 1, 300, 512, 700, 1023, 1024])
@pytest.mark.parametrize("kind", ["good", "few positives", "confident"])
def test_the_confusion_at_an_edge_is_counted_right(kind: str, edge: int) -> None:
    found = drawn(kind, 0, size=300)
    truth, _ = labelled(found)
    says = called(found, edge)

    assert confusion(*counts(found), edge) == (
        (~says & (truth == 0)).sum(),
        (says & (truth == 0)).sum(),
        (~says & (truth == 1)).sum(),
        (says & (truth == 1)).sum(),
    )


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_edge_is_as_good_as_the_best_of_all(kind: str, balanced: bool) -> None:
    found = drawn(kind, 1, size=200)
    truth, _ = labelled(found)
    says = np.stack([called(found, edge) for edge in range(BINS + 1)])
    right_of = [(says[:, truth == label] == label).mean(axis=1) for label in (0, 1)]
    of_edges = sum(right_of) / 2 if balanced else (says == truth).mean(axis=1)

    chosen = best_edge(*counts(found), balanced=balanced)

    assert of_edges[chosen] == pytest.approx(max(of_edges), abs=1e-9)


def test_accuracy_and_balanced_accuracy_want_other_edges_where_classes_are_unequal() -> None:
    found = drawn("few positives", 0)

    assert best_edge(*counts(found), balanced=True) < best_edge(*counts(found), balanced=False)


def test_among_equal_edges_the_middle_one_is_taken() -> None:
    negatives, positives = np.zeros(BINS), np.zeros(BINS)
    negatives[99], positives[200] = 5, 5  # all edges from 100 to 200 are perfect

    assert best_edge(negatives, positives, balanced=False) in {149, 150, 151}


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("balanced", [False, True])
def test_with_one_class_the_best_edge_calls_that_class(
    sizes: tuple[int, int], balanced: bool
) -> None:
    found = np.zeros(sizes[0]), np.zeros(sizes[1])

    tn, fp, fn, tp = confusion(*counts(found), best_edge(*counts(found), balanced=balanced))

    assert (tn, fp, fn, tp) == (sizes[0], 0, 0, sizes[1])
