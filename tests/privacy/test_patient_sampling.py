"""Who is in a step, and with which records: Poisson over patients, and a fair draw of K."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import Batch
from tests.privacy.private_networks import ALL, private

STEPS = 4000
Taken = NDArray[np.float64]


def patients_of(sizes: list[int], seed: int = 0) -> Tensor:
    """Each record's patient as a file has them: in any order, under any numbers."""
    source = torch.Generator().manual_seed(seed)
    numbers = torch.randperm(10 * len(sizes), generator=source)[: len(sizes)] - 3
    patients = numbers.repeat_interleave(torch.tensor(sizes))
    return patients[torch.randperm(len(patients), generator=source)]


def batches(
    patients: Tensor, *, rate: float = 1.0, most: int = ALL, steps: int = STEPS, seed: int = 0
) -> list[Batch]:
    drawing = private(seed, sampling_rate=rate, records_per_patient=most, steps=steps)
    return list(drawing.batches(patients))


def presence(patients: Tensor, found: list[Batch]) -> Taken:
    """Whether each patient is in each step, shape (steps, patients)."""
    everybody = patients.unique()
    taken = np.zeros((len(found), len(everybody)))
    for step, batch in enumerate(found):
        taken[step] = np.isin(everybody.numpy(), patients[batch.records].numpy())
    return taken


sizes_of_patients = st.lists(st.integers(1, 8), min_size=1, max_size=12)


@given(sizes_of_patients, st.integers(0, 99), st.sampled_from([0.1, 0.5, 1.0]))
def test_a_patients_records_come_together_or_not_at_all(
    sizes: list[int], seed: int, rate: float
) -> None:
    patients = patients_of(sizes, seed)

    for batch in batches(patients, rate=rate, steps=10, seed=seed):
        here = Counter(patients[batch.records].tolist())
        whole = Counter(patients.tolist())
        assert all(here[patient] == whole[patient] for patient in here)


@given(sizes_of_patients, st.integers(0, 99), st.integers(1, 9))
def test_a_patient_brings_at_most_k_different_records_and_as_many_as_there_are_below_that(
    sizes: list[int], seed: int, most: int
) -> None:
    patients = patients_of(sizes, seed)
    wanted = {p: min(most, n) for p, n in Counter(patients.tolist()).items()}

    (batch,) = batches(patients, most=most, steps=1, seed=seed)

    assert len(set(batch.records.tolist())) == len(batch.records)
    assert Counter(patients[batch.records].tolist()) == wanted


@given(sizes_of_patients, st.integers(0, 99), st.integers(1, 9))
def test_a_batch_names_its_records_patients_and_has_each_ones_beside_each_other(
    sizes: list[int], seed: int, most: int
) -> None:
    patients = patients_of(sizes, seed)
    everybody = patients.unique()  # ascending

    for batch in batches(patients, rate=0.6, most=most, steps=5, seed=seed):
        assert batch.records.dtype == batch.patients.dtype == torch.int64
        assert torch.equal(everybody[batch.patients], patients[batch.records])
        assert torch.equal(batch.patients, batch.patients.sort().values)


def test_a_rate_of_one_takes_everybody_in_every_step() -> None:
    found = batches(patients_of([3, 1, 5]), steps=50)

    assert [sorted(batch.records.tolist()) for batch in found] == [list(range(9))] * 50


def test_as_many_samples_are_drawn_as_steps_were_charged() -> None:
    assert [len(batches(patients_of([2, 1]), steps=steps)) for steps in (1, 7)] == [1, 7]


# --- Poisson over patients ------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "rate"), [(60, 0.3), (200, 0.02), (5, 0.5)])
def test_there_are_as_many_patients_in_a_step_as_a_binomial_says(count: int, rate: float) -> None:
    patients = patients_of([1 + number % 3 for number in range(count)])
    numbers = presence(patients, batches(patients, rate=rate)).sum(axis=1).astype(int)
    expected = STEPS * np.array(
        [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)]
    )
    seen = np.bincount(numbers, minlength=count + 1)
    common = expected >= 5

    assert seen[~common].sum() < 60
    here, there = seen[common], expected[common]
    assert stats.chisquare(here, there * here.sum() / there.sum()).pvalue > 1e-3


@pytest.mark.parametrize("most", [1, 3, ALL])
def test_every_patient_is_in_a_step_equally_often_however_many_records_there_are(most: int) -> None:
    patients = patients_of([1, 1, 2, 3, 5, 8, 13, 21, 34, 55])
    taken = presence(patients, batches(patients, rate=0.25, most=most))

    assert np.abs(taken.mean(axis=0) - 0.25).max() < 4 * np.sqrt(0.25 * 0.75 / STEPS)


def test_patients_are_sampled_independently_of_each_other_and_of_the_step_before() -> None:
    patients = patients_of([1 + number % 4 for number in range(20)])
    taken = presence(patients, batches(patients, rate=0.25))
    limit = 4.5 / np.sqrt(STEPS)  # of 190 and 400 correlations at once

    assert np.abs(np.corrcoef(taken.T) - np.eye(20)).max() < limit
    before_and_after = np.corrcoef(taken[:-1].T, taken[1:].T)[:20, 20:]
    assert np.abs(before_and_after).max() < limit


def test_both_of_two_patients_are_there_as_often_as_chance_says() -> None:
    """Pairs, one by one: neither drawn together nor instead of each other."""
    patients = patients_of([1, 9, 2, 30])
    taken = presence(patients, batches(patients, rate=0.5))

    for one, other in combinations(range(4), 2):
        pairs = np.bincount((2 * taken[:, one] + taken[:, other]).astype(int), minlength=4)
        assert stats.chisquare(pairs).pvalue > 1e-3


# --- Which K of a patient's records ---------------------------------------------------------------


@pytest.mark.parametrize(("count", "most"), [(5, 2), (4, 3), (6, 1), (5, 4)])
@pytest.mark.parametrize("neighbours", [[], [1, 7, 2]])
def test_all_choices_of_k_records_are_equally_likely(
    count: int, most: int, neighbours: list[int]
) -> None:
    patients = patients_of([count, *neighbours])
    (mine,) = [patient for patient, n in Counter(patients.tolist()).items() if n == count]
    own = (patients == mine).nonzero().flatten().tolist()
    seen = Counter(
        tuple(sorted(set(batch.records.tolist()) & set(own)))
        for batch in batches(patients, most=most)
    )
    choices = list(combinations(own, most))

    assert set(seen) == set(choices)
    assert stats.chisquare([seen[choice] for choice in choices]).pvalue > 1e-3


def test_what_one_patient_brings_says_nothing_of_what_another_brings() -> None:
    patients = torch.tensor([0, 0, 0, 1, 1, 1])
    pairs = Counter(tuple(sorted(b.records.tolist())) for b in batches(patients, most=1))

    assert len(pairs) == 9
    assert stats.chisquare(list(pairs.values())).pvalue > 1e-3


def test_the_choice_is_made_anew_in_every_step() -> None:
    found = [int(b.records) for b in batches(torch.zeros(7, dtype=torch.int64), most=1)]
    pairs = [7 * one + other for one, other in zip(found[::2], found[1::2], strict=True)]

    assert stats.chisquare(np.bincount(pairs, minlength=49)).pvalue > 1e-3


# --- Where chance comes from ----------------------------------------------------------------------


def test_the_sample_comes_from_the_secret_stream_and_from_nowhere_else() -> None:
    patients = patients_of([3, 1, 5, 2])
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - shows that it does not matter
        found.append([b.records.tolist() for b in batches(patients, rate=0.5, most=2, steps=20)])
    other = [b.records.tolist() for b in batches(patients, rate=0.5, most=2, steps=20, seed=9)]

    assert found[0] == found[1] == found[2]
    assert other != found[0]


def test_two_fresh_streams_draw_other_samples() -> None:
    patients = patients_of([2] * 30)
    one, other = (
        [
            batch.records.tolist()
            for batch in private(
                sampling_rate=0.5, steps=10, sampling=SecretStream.fresh()
            ).batches(patients)
        ]
        for _ in range(2)
    )

    assert one != other
