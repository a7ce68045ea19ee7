"""Dividing records among hospitals: everyone has one owner, patients stay whole, none is empty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.simulation.splitting import Owners, by_shares, by_site, split
from fedward.study.errors import OptionError
from fedward.study.simulation import Simulation

Numbers = NDArray[np.int64]


def divide(
    rule: Simulation, hospitals: int, labels: Numbers, patients: Numbers, seed: int = 0
) -> Owners:
    rng = np.random.default_rng(seed)
    return split(rule, hospitals=hospitals, labels=labels, patients=patients, rng=rng)


def cohort(rng: np.random.Generator, patients: int) -> tuple[Numbers, Numbers]:
    """One to four records a patient, shuffled; the patients' numbers have gaps."""
    of_record = np.repeat(np.arange(patients) * 7 + 3, rng.integers(1, 5, patients))
    rng.shuffle(of_record)
    return (of_record // 7 + rng.integers(0, 2)) % 3, of_record


@st.composite
def divisions(draw: st.DrawFn) -> tuple[Simulation, int, int, int]:
    hospitals = draw(st.integers(1, 8))
    kind = draw(st.sampled_from(["iid", "patients", "quantity", "dirichlet"]))
    few = 40 * hospitals if kind == "dirichlet" else hospitals
    patients = draw(st.integers(few, few + 80))
    shares = draw(st.lists(st.floats(0.01, 100), min_size=hospitals, max_size=hospitals))
    rule = Simulation(
        split=kind,  # type: ignore[arg-type]
        shares=tuple(shares) if kind == "quantity" else None,
        alpha=draw(st.floats(0.5, 1000)),
    )
    return rule, hospitals, patients, draw(st.integers(0, 2**32 - 1))


@given(divisions())
@settings(deadline=None, max_examples=150)
def test_every_record_has_one_owner_no_patient_is_split_and_no_hospital_is_empty(
    drawn: tuple[Simulation, int, int, int],
) -> None:
    rule, hospitals, count, seed = drawn
    labels, patients = cohort(np.random.default_rng(seed), count)
    owners = divide(rule, hospitals, labels, patients, seed)

    assert owners.shape == patients.shape
    assert sorted(set(owners.tolist())) == list(range(hospitals))
    of_patient: dict[int, set[int]] = {}
    for patient, owner in zip(patients.tolist(), owners.tolist(), strict=True):
        of_patient.setdefault(patient, set()).add(owner)
    assert {len(owned) for owned in of_patient.values()} == {1}


@given(divisions())
@settings(deadline=None, max_examples=30)
def test_the_same_seed_divides_the_same(drawn: tuple[Simulation, int, int, int]) -> None:
    rule, hospitals, count, seed = drawn
    labels, patients = cohort(np.random.default_rng(seed), count)

    first = divide(rule, hospitals, labels, patients, seed)
    np.testing.assert_array_equal(divide(rule, hospitals, labels, patients, seed), first)


@pytest.mark.parametrize("kind", ["iid", "patients", "dirichlet"])
def test_another_seed_divides_otherwise(kind: str) -> None:
    rule = Simulation(split=kind)  # type: ignore[arg-type]
    labels, patients = np.arange(200) % 2, np.arange(200)
    divided = [divide(rule, 3, labels, patients, seed).tolist() for seed in range(4)]

    assert all(divided[a] != divided[b] for a in range(4) for b in range(a))


@given(
    shares=st.lists(st.floats(1, 50), min_size=1, max_size=10),
    each=st.integers(2, 20),
    seed=st.integers(0, 99),
)
@settings(deadline=None)
def test_quantities_follow_the_shares_to_within_one_patient(
    shares: list[float], each: int, seed: int
) -> None:
    patients = int(np.ceil(sum(shares) / min(shares) * each))
    sizes = np.bincount(by_shares(patients, shares, np.random.default_rng(seed)))

    assert sizes.sum() == patients
    for size, share in zip(sizes, shares, strict=True):
        assert abs(size - share / sum(shares) * patients) <= 1


def test_a_tiny_share_still_gets_a_patient() -> None:
    sizes = np.bincount(by_shares(10, [1e-6, 1.0, 1e-6], np.random.default_rng(0)))

    assert sizes.tolist() == [1, 8, 1]


def test_equal_shares_are_equal() -> None:
    sizes = np.bincount(by_shares(31, [1.0] * 3, np.random.default_rng(0)))

    assert sorted(sizes.tolist()) == [10, 10, 11]


def class_shares(alpha: float) -> NDArray[np.float64]:
    """Share of class 1 at each of five hospitals, of 3000 patients with equal classes."""
    labels = np.arange(3000) % 2
    rule = Simulation(split="dirichlet", alpha=alpha)
    owners = divide(rule, 5, labels, np.arange(3000), seed=4)
    return np.array([labels[owners == hospital].mean() for hospital in range(5)])


def test_dirichlet_with_a_tiny_alpha_is_skewed() -> None:
    shares = class_shares(0.1)

    assert np.mean(np.maximum(shares, 1 - shares)) > 0.8
    assert shares.max() - shares.min() > 0.7


def test_dirichlet_with_a_huge_alpha_is_nearly_uniform() -> None:
    labels = np.arange(3000) % 2
    owners = divide(Simulation(split="dirichlet", alpha=1e6), 5, labels, np.arange(3000))

    np.testing.assert_allclose(class_shares(1e6), 0.5, atol=0.02)
    np.testing.assert_allclose(np.bincount(owners), 600, atol=10)


def test_a_dirichlet_that_leaves_a_hospital_without_patients_is_refused() -> None:
    rule = Simulation(split="dirichlet", alpha=1e-4)

    with pytest.raises(OptionError, match=r"Dirichlet\(0.0001\).*alpha"):
        divide(rule, 8, np.arange(80) % 2, np.arange(80))


@pytest.mark.parametrize("kind", ["iid", "patients", "dirichlet", "quantity"])
def test_fewer_patients_than_hospitals_are_refused(kind: str) -> None:
    rule = Simulation(split=kind, shares=(1.0,) * 4)  # type: ignore[arg-type]

    with pytest.raises(OptionError, match=r"3 patients .* 4 hospitals"):
        divide(rule, 4, np.zeros(30, np.int64), np.arange(30) % 3)


@pytest.mark.parametrize("shares", [(1.0,), (1.0, 2.0, 3.0)])
def test_shares_must_be_as_many_as_hospitals(shares: tuple[float, ...]) -> None:
    rule = Simulation(split="quantity", shares=shares)

    with pytest.raises(OptionError, match=f"{len(shares)} shares for 2 hospitals"):
        divide(rule, 2, np.zeros(9, np.int64), np.arange(9))


def test_sites_are_named_in_sorted_order() -> None:
    names, owners = by_site(np.array(["south", "north", "south", "east"]))

    assert names == ["east", "north", "south"]
    assert [names[owner] for owner in owners] == ["south", "north", "south", "east"]
