"""Distances of histograms: known answers, by hand and by scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammainccinv
from scipy.stats import entropy, ks_2samp

from fedward.clinic.watching.distances import (
    distance_by_chance,
    largest_distance,
    stability_by_chance,
    stability_index,
)
from fedward.clinic.watching.drift import drift_of
from fedward.clinic.watching.reference import Expected

COUNTS = st.lists(st.integers(1, 400), min_size=4, max_size=4).map(lambda c: np.array(c, float))
NONE = np.zeros(4, dtype=bool)


def test_the_index_by_hand() -> None:
    """Of 50:50 and 80:20: 0.3 ln 1.6 - 0.3 ln 0.4."""
    found = stability_index(np.array([50.0, 50.0]), np.array([160.0, 40.0]))

    assert found == pytest.approx(0.3 * math.log(1.6) - 0.3 * math.log(0.4))
    assert found == pytest.approx(0.41588830833596724)


@given(COUNTS, COUNTS)
def test_the_index_is_relative_entropy_both_ways(one: np.ndarray, other: np.ndarray) -> None:
    assert stability_index(one, other) == pytest.approx(
        entropy(one, other) + entropy(other, one), abs=1e-12
    )


def test_an_empty_cell_counts_as_half_a_record() -> None:
    found = stability_index(np.array([10.0, 0.0]), np.array([0.0, 30.0]))

    e, s = np.array([10, 0.5]) / 10.5, np.array([0.5, 30]) / 30.5
    assert found == pytest.approx(float(((s - e) * np.log(s / e)).sum()))


@given(COUNTS, COUNTS)
def test_the_distance_is_scipy_s_on_the_records(one: np.ndarray, other: np.ndarray) -> None:
    def records(counts: np.ndarray) -> np.ndarray:
        return np.repeat(np.arange(4), counts.astype(int))

    assert largest_distance(one, NONE, 0.0, other) == pytest.approx(
        ks_2samp(records(one), records(other)).statistic, abs=1e-12
    )


@given(COUNTS, COUNTS, st.sets(st.integers(0, 3), min_size=1, max_size=3))
def test_with_hidden_cells_it_is_the_least_that_is_possible(
    one: np.ndarray, other: np.ndarray, places: set[int]
) -> None:
    hidden = np.isin(np.arange(4), list(places))
    known, rest = np.where(hidden, 0, one), float(one[hidden].sum())
    found = largest_distance(known, hidden, rest, other)

    assert found <= largest_distance(one, NONE, 0.0, other) + 1e-12
    if len(places) == 1:  # nothing is unknown
        assert found == pytest.approx(largest_distance(one, NONE, 0.0, other), abs=1e-12)


def test_what_chance_does_is_what_it_was_said_to_do() -> None:
    """Of 2000 pairs of samples of one distribution, one in ten is beyond a surprise of 0.1."""
    random = np.random.default_rng(3)
    shares = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
    beyond, far = [], []
    for _ in range(2000):
        expected, seen = (random.multinomial(n, shares).astype(float) for n in (500, 300))
        usual = stability_by_chance(expected, 300, surprise=0.1)
        beyond.append(stability_index(expected, seen) > usual)
        apart = largest_distance(expected, np.zeros(5, bool), 0.0, seen)
        far.append(apart > distance_by_chance(500, 300, cells=5, surprise=0.1))

    assert np.mean(beyond) == pytest.approx(0.1, abs=0.03)
    assert np.mean(far) <= 0.1
    assert stability_by_chance(np.ones(5) * 100, 300, surprise=0.1) == pytest.approx(
        2 * gammainccinv(2, 0.1) * (1 / 500 + 1 / 300)
    )


def test_noise_in_the_reference_is_no_drift() -> None:
    random = np.random.default_rng(4)
    shares, alarms = np.array([0.2, 0.3, 0.3, 0.2]), []
    for _ in range(300):
        noisy = np.maximum(random.multinomial(300, shares) + random.normal(0, 25, 4), 1)
        cells = tuple(int(c) for c in noisy)
        expected = Expected(kind="number", name="age", cells=cells, deviation=25.0)
        seen = random.multinomial(1000, shares).astype(float)
        alarms.append(drift_of(expected, seen, histograms=4).alarm)

    assert np.mean(alarms) < 0.01


def test_hidden_cells_are_compared_together() -> None:
    expected = Expected(kind="category", name="sex", cells=(None, 60, None, 30), hidden=10)
    drift = drift_of(expected, np.array([0.0, 60.0, 10.0, 30.0]), histograms=1)

    assert (drift.psi, drift.ks, drift.alarm, drift.records) == (0.0, None, False, 100)
    elsewhere = drift_of(expected, np.array([300.0, 0.0, 300.0, 0.0]), histograms=1)
    assert elsewhere.alarm


def test_few_records_raise_no_alarm_that_chance_could() -> None:
    expected = Expected(kind="number", name="age", cells=(100, 100, 100, 100))
    few = drift_of(expected, np.array([6.0, 2.0, 1.0, 1.0]), histograms=10)
    many = drift_of(expected, np.array([600.0, 200.0, 100.0, 100.0]), histograms=10)

    assert few.psi > 0.2
    assert not few.alarm
    assert many.alarm
