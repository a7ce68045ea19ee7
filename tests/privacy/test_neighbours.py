"""The ring: who is whose neighbour, and how often chance is as unkind as the bounds allow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.framing import framed
from fedward.privacy.key_schedule import round_context
from fedward.privacy.neighbours import closed_neighbourhood, closed_neighbourhoods, ring_of
from fedward.privacy.secure_hospital import Trust
from fedward.privacy.secure_messages import Attempt
from fedward.study.threshold import chance_of_too_few, colluders_nearby, neighbourhood
from tests.privacy.conftest import Consortium, names_of

RING = b"\x05" * 32
Flags = NDArray[np.bool_]


def ring_number(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


def places(names: tuple[str, ...], ring: bytes) -> dict[str, int]:
    """The definition, written again."""
    digests = {
        hashlib.sha256(framed("fedward/1/ring place", ring, name)).digest(): name for name in names
    }
    return {digests[digest]: at for at, digest in enumerate(sorted(digests))}


# --- The graph ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(n=st.integers(65, 200), ring=st.binary(min_size=32, max_size=32))
def test_the_neighbours_are_the_32_nearest_on_either_side(n: int, ring: bytes) -> None:
    names = names_of(n)
    at = places(names, ring)

    found = closed_neighbourhoods(names, ring=ring, size=neighbourhood(n))

    assert found.keys() == set(names)
    for one in names:
        away = {other: (at[other] - at[one]) % n for other in names}
        assert found[one] == tuple(x for x in names if min(away[x], n - away[x]) <= 32)
    assert {len(near) for near in found.values()} == {65}  # regular
    assert all(one in found[other] for one in names for other in found[one])  # symmetric


@settings(max_examples=30)
@given(n=st.integers(1, 40), reach=st.integers(0, 12), data=st.data())
def test_one_hospital_finds_what_is_found_for_all(n: int, reach: int, data: st.DataObject) -> None:
    names = names_of(n)
    shuffled = data.draw(st.permutations(names))
    size = 2 * reach + 1
    found = closed_neighbourhoods(names, ring=RING, size=size)

    for one in names:
        assert closed_neighbourhood(one, shuffled, ring=RING, size=size) == found[one]
        assert one in found[one]
        assert len(found[one]) == min(n, size)
    assert closed_neighbourhoods(shuffled, ring=RING, size=size) == found


@pytest.mark.parametrize("n", [1, 2, 5, 63, 64, 65])
def test_in_small_rounds_everybody_is_a_neighbour_whatever_the_ring(n: int) -> None:
    names = names_of(n)
    for ring in (b"", RING):
        found = closed_neighbourhoods(reversed_(names), ring=ring, size=neighbourhood(n))
        assert found == dict.fromkeys(names, names)
        one = closed_neighbourhood(names[0], reversed_(names), ring=ring, size=neighbourhood(n))
        assert one == names


def reversed_(names: tuple[str, ...]) -> tuple[str, ...]:
    return names[::-1]


def test_another_ring_is_another_order() -> None:
    names = names_of(200)
    rings = [closed_neighbourhoods(names, ring=ring_number(i), size=65) for i in range(20)]
    common = [
        len(set(one[name]) & set(other[name])) - 1
        for one, other in pairwise(rings)
        for name in names
    ]

    assert np.mean(common) == pytest.approx(64 * 64 / 199, rel=0.02)  # as if drawn anew


def test_what_cannot_be_a_neighbourhood_is_refused() -> None:
    names = names_of(10)
    with pytest.raises(ValueError, match="not among the invited"):
        closed_neighbourhood("zz", names, ring=RING, size=5)
    with pytest.raises(ValueError, match="not among the invited"):
        closed_neighbourhood("zz", names, ring=RING, size=10)
    for size in (2, 4, 8):
        with pytest.raises(ValueError, match="even"):
            closed_neighbourhood("a", names, ring=RING, size=size)
        with pytest.raises(ValueError, match="even"):
            closed_neighbourhoods(names, ring=RING, size=size)


# --- Where the order comes from -------------------------------------------------------------------


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Consortium(tmp_path, 6, Trust(0, 2)).attempt(server_round=3)


def test_the_ring_is_the_same_for_all_attempts_at_a_round_and_whatever_is_told(
    attempt: Attempt,
) -> None:
    ring = ring_of(attempt)

    for same in (
        replace(attempt, attempt=2),
        replace(attempt, told=b"another model"),
        replace(attempt, adverts=attempt.adverts[::-1]),
    ):
        assert ring_of(same) == ring
    assert len(ring) == 32
    assert ring_of(attempt) == ring


def test_everything_else_changes_the_ring(attempt: Attempt) -> None:
    key = replace(attempt.adverts[5], public_key=b"\x09" * 32)
    others = [
        attempt,
        replace(attempt, round=4),
        replace(attempt, run="run-2"),
        replace(attempt, study="5e" * 32),
        replace(attempt, adverts=attempt.adverts[1:]),
        replace(attempt, adverts=(*attempt.adverts[:5], key)),
    ]

    assert len({ring_of(other) for other in others}) == len(others)


def test_the_ring_is_the_context_of_no_attempt(attempt: Attempt) -> None:
    rings = [ring_of(replace(attempt, attempt=number)) for number in range(1, 50)]
    contexts = {
        round_context(
            study=attempt.study, run=attempt.run, round=3, attempt=number, adverts=attempt.adverts
        )
        for number in range(1, 50)
    }

    assert not contexts & set(rings)


# --- Chance ---------------------------------------------------------------------------------------

# 100 hospitals. The neighbourhoods are the real ones, the names that collude or drop out are drawn.
N, MANY = 100, 300


def near_of(number: int) -> Flags:
    """Row i, column j: whether j is in the closed neighbourhood of i."""
    names = names_of(N)
    at = {name: place for place, name in enumerate(names)}
    found = closed_neighbourhoods(names, ring=ring_number(number), size=neighbourhood(N))
    table = np.zeros((N, N), dtype=bool)
    for name, near in found.items():
        table[at[name], [at[other] for other in near]] = True
    return table


@pytest.fixture(scope="module")
def rings() -> list[Flags]:
    return [near_of(number) for number in range(MANY)]


def nearby_colluders(rings: list[Flags], colluding: int) -> Iterator[NDArray[np.int64]]:
    """For each ring, how many of the first names are near each of the other, honest ones."""
    for near in rings:
        yield near[colluding:, :colluding].sum(axis=1)


@pytest.mark.parametrize("colluding", [5, 20, 50])
def test_colluders_nearby_are_as_many_as_drawn_without_replacement(
    rings: list[Flags], colluding: int
) -> None:
    counts = np.array(list(nearby_colluders(rings, colluding)))
    drawn = [comb(colluding, i) * comb(N - 1 - colluding, 64 - i) for i in range(colluding + 1)]

    for x in range(colluding):
        wanted = sum(drawn[x + 1 :]) / sum(drawn)
        shares = (counts > x).mean(axis=1)  # the rings are independent, a ring's windows are not
        error = shares.std() / MANY**0.5
        assert abs(shares.mean() - wanted) <= 5 * error + 3 / counts.size, x


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("colluding", [10, 20, 40])
def test_the_bound_on_colluders_nearby_holds_and_is_not_idle(
    rings: list[Flags], colluding: int, bits: int
) -> None:
    x = colluders_nearby(hospitals=N, colluding=colluding, bits=bits)
    worst = np.array([counts.max() for counts in nearby_colluders(rings, colluding)])

    assert np.mean(worst > x) <= 2.0**-bits
    assert np.mean(worst > x - 4) > 2.0**-bits  # four fewer would be said too lightly


def failures(rings: list[Flags], threshold: int, dropping: float) -> tuple[float, Flags]:
    """The share of attempts that fail, and for each attempt and hospital: alive, with too few."""
    rng = np.random.default_rng(7)
    left = rng.random((10 * MANY, N)) >= dropping
    failed = np.array(
        [
            alive & (rings[number % MANY] @ alive.astype(np.int64) < threshold)
            for number, alive in enumerate(left)
        ]
    )
    return float(np.mean(failed.any(axis=1) | ~left.any(axis=1))), failed


@pytest.mark.parametrize(
    ("threshold", "dropping"), [(34, 0.3), (34, 0.35), (34, 0.4), (39, 0.25), (51, 0.1), (51, 0.15)]
)
def test_the_bound_on_failures_holds_and_is_not_idle(
    rings: list[Flags], threshold: int, dropping: float
) -> None:
    bound = chance_of_too_few(hospitals=N, threshold=threshold, dropping=dropping)
    found, failed = failures(rings, threshold, dropping)

    assert 0 < found <= bound
    per_hospital = failed.mean(axis=1)
    left = [comb(64, i) * (1 - dropping) ** i * dropping ** (64 - i) for i in range(65)]
    wanted = (1 - dropping) * sum(left[: threshold - 1])  # itself, and fewer than t - 1 others
    error = per_hospital.std() / len(per_hospital) ** 0.5
    assert abs(per_hospital.mean() - wanted) <= 5 * error  # the bound is loose only as a sum


def test_with_fewer_dropping_out_hardly_anything_fails(rings: list[Flags]) -> None:
    assert failures(rings, 34, 0.2)[0] == 0
    assert chance_of_too_few(hospitals=N, threshold=34, dropping=0.2) < 1e-4
