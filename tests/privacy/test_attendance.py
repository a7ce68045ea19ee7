"""A sample that is not the charged one is noticed; the right sampler is hardly ever accused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from fedward.privacy.attendance import LEAST_CHANCE, Attendance, _binomial, _furthest, _total
from fedward.privacy.secret_stream import SecretStream
from tests.privacy.private_networks import private

binom: Any = vars(stats)["binom"]  # which its types leave out
Sampler = Callable[[int, int, float, torch.Generator], Iterator[Tensor]]


def poisson(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    for _ in range(steps):
        yield (torch.rand(patients, generator=source) < rate).nonzero().flatten()


def everybody(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    for _ in range(steps):
        yield torch.arange(patients)


def shuffled(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    """As an ordinary loader: each patient once in each pass, in batches of one size."""
    size = round(patients * rate)
    for _ in range(0, steps, patients // size):
        yield from torch.randperm(patients, generator=source).split(size)


def of_one_size(
    patients: int, steps: int, rate: float, source: torch.Generator
) -> Iterator[Tensor]:
    """Without replacement, each step anew."""
    for _ in range(steps):
        yield torch.randperm(patients, generator=source)[: round(patients * rate)]


def one_always(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    for batch in poisson(patients, steps, rate, source):
        yield torch.cat([torch.tensor([3]), batch])


def drawn_once(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    (batch,) = poisson(patients, 1, rate, source)
    for _ in range(steps):
        yield batch


def in_passes(patients: int, steps: int, rate: float, source: torch.Generator) -> Iterator[Tensor]:
    """Batches whose sizes are chance's, and everybody as often as all others."""
    turn = 0
    for batch in poisson(patients, steps, rate, source):
        yield torch.arange(turn, turn + len(batch)) % patients
        turn += len(batch)


def half_as_many_more(
    patients: int, steps: int, rate: float, source: torch.Generator
) -> Iterator[Tensor]:
    yield from poisson(patients, steps, 1.5 * rate, source)


def chance(sampler: Sampler, patients: int, steps: int, rate: float, seed: int = 0) -> float:
    noted = Attendance(patients)
    for batch in sampler(patients, steps, rate, torch.Generator().manual_seed(seed)):
        noted.add(batch)
    return noted.chance(rate)


@pytest.mark.parametrize(
    "sampler",
    [everybody, shuffled, of_one_size, one_always, drawn_once, in_passes, half_as_many_more],
)
@pytest.mark.parametrize("rate", [0.1, 0.25])
def test_a_sampler_that_is_not_poissons_is_noticed(sampler: Sampler, rate: float) -> None:
    assert chance(sampler, 120, 40, rate) < LEAST_CHANCE


@pytest.mark.parametrize(
    ("patients", "steps", "rate"),
    [(120, 40, 0.1), (20, 400, 0.02), (400, 10, 0.9), (7, 5, 0.5), (50, 1, 0.3), (1, 60, 0.5)],
)
def test_poissons_is_accused_no_oftener_than_is_said(
    patients: int, steps: int, rate: float
) -> None:
    found = [chance(poisson, patients, steps, rate, seed) for seed in range(300)]

    assert min(found) > 1e-5
    for level in (0.01, 0.1):  # three figures, each with a p-value
        low = sum(p <= level for p in found)
        assert binom.sf(low - 1, len(found), 3 * level) > 1e-3


def test_the_steps_own_sampler_is_poissons() -> None:
    noted, patients = Attendance(90), torch.arange(90).repeat_interleave(3)
    steps = private(sampling_rate=0.2, steps=200, sampling=SecretStream.fresh())
    for batch in steps.batches(patients):
        noted.add(batch.patients)

    assert len(noted.sizes) == 200
    assert noted.drawn == pytest.approx(0.2 * 90 * 200, rel=0.15)
    assert noted.chance(0.2) > LEAST_CHANCE
    assert noted.chance(0.1) < LEAST_CHANCE


def test_where_everybody_is_charged_for_everybody_must_be_there() -> None:
    assert chance(everybody, 30, 10, 1.0) == 1
    noted = Attendance(30)
    for there in (30, 29, 30):
        noted.add(torch.arange(there))
    assert noted.chance(1.0) == 0


def test_whoever_is_no_patient_must_not_be_there() -> None:
    noted = Attendance(3)
    noted.add(torch.tensor([0, 3]))

    assert noted.chance(0.5) == 0


def test_a_patient_counts_once_in_a_step_whatever_the_records() -> None:
    noted = Attendance(3)
    for batch in ([0, 0, 0, 2], [], [2]):
        noted.add(torch.tensor(batch, dtype=torch.int64))

    assert noted.sizes == [2, 0, 1]
    assert noted.drawn == 3


def test_of_nobody_or_no_step_nothing_is_said() -> None:
    assert Attendance(5).chance(0.5) == 1
    nobody = Attendance(0)
    nobody.add(torch.zeros(0, dtype=torch.int64))
    assert nobody.chance(0.5) == 1


@pytest.mark.parametrize(("trials", "rate"), [(1, 0.5), (40, 0.1), (3000, 0.013), (7, 1.0)])
def test_binomial_chances_are_scipys(trials: int, rate: float) -> None:
    expected = binom.pmf(range(trials + 1), trials, rate)

    assert torch.allclose(_binomial(trials, rate), torch.from_numpy(expected), rtol=1e-9)


@pytest.mark.parametrize("found", [0, 3, 40, 55, 100])
def test_the_bound_of_the_total_is_above_the_exact_value(found: int) -> None:
    exact = 2 * min(binom.cdf(found, 100, 0.4), binom.sf(found - 1, 100, 0.4))

    bound = _total(found, 100, 0.4)
    assert min(1.0, exact) * (1 - 1e-9) <= bound <= min(1.0, 30 * math.sqrt(exact))


def test_the_furthest_of_a_few_is_counted_out() -> None:
    """Two coins of three throws each: 3 heads are 1.5 from the mean, as 0 are; 1 and 2 are 0.5."""
    far, near = torch.tensor([3.0, 1.0]), torch.tensor([2.0, 1.0])

    assert _furthest(far, 3, 0.5) == pytest.approx(2 * (1 - 0.75**2))
    assert _furthest(near, 3, 0.5) == 1  # 2 x 0.75^2 is above 1
    assert _furthest(near.repeat(10), 3, 0.5) == pytest.approx(2 * 0.75**20)
