"""How many shares: the protocol's own examples, and what the number must guarantee."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import ceil, comb, floor, log10
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.threshold import (
    chance_of_too_few,
    colluders_nearby,
    neighbourhood,
    shares_needed,
)

DOCS = Path(__file__).parents[2] / "docs" / "secure-aggregation.md"


@pytest.mark.parametrize(
    ("n", "c", "k", "t"),
    [(3, 0, 2, 3), (4, 0, 2, 3), (5, 1, 2, 4), (10, 2, 2, 7), (2, 0, 2, 2), (5, 0, 5, 5)],
)
def test_known_answers(n: int, c: int, k: int, t: int) -> None:
    assert shares_needed(hospitals=n, colluding=c, min_honest=k) == t


@given(n=st.integers(1, 64), c=st.integers(0, 64), k=st.integers(2, 64))
def test_what_the_number_must_guarantee(n: int, c: int, k: int) -> None:
    if n < c + k:
        with pytest.raises(ValueError, match=r"n=|are needed"):
            shares_needed(hospitals=n, colluding=c, min_honest=k)
        return
    t = shares_needed(hospitals=n, colluding=c, min_honest=k)

    assert t <= n
    assert t - c >= k  # whoever answers with the colluders' help, k honest ones do
    assert 2 * (t - c) > n - c  # two stories need more honest answers than there are
    assert t - c - (n - t) >= k  # of t - c honest ones, a story of t leaves at most n - t out
    assert 2 * (t - 1) < n + c + k  # and no smaller number would do for the last of these


def test_too_many_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(ValueError, match=r"floor\(\(3 hospitals \+ 2 colluding \+ 2 honest - 1\)"):
        shares_needed(hospitals=3, colluding=2, min_honest=2)
    with pytest.raises(ValueError, match=r"= 4 shares.*there are 3 hospitals; at least 4"):
        shares_needed(hospitals=3, colluding=2, min_honest=2)


@pytest.mark.parametrize(("n", "c", "k"), [(0, 0, 2), (-1, 0, 2), (3, -1, 2), (3, 4, 2), (3, 0, 1)])
def test_impossible_numbers_are_refused(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="wanted"):
        shares_needed(hospitals=n, colluding=c, min_honest=k)


# --- More than 64 hospitals -----------------------------------------------------------------------


def test_up_to_64_everybody_is_a_neighbour_and_then_64_are() -> None:
    assert [neighbourhood(n) for n in (1, 2, 63, 64)] == [1, 2, 63, 64]
    assert {neighbourhood(n) for n in (65, 66, 100, 10_000)} == {65}


@pytest.mark.parametrize(
    ("n", "c", "k", "t"),
    [
        (64, 0, 2, 33),
        (65, 0, 2, 34),
        (66, 0, 2, 34),
        (10_000, 0, 2, 34),
        (10_000, 0, 65, 65),
        (65, 10, 2, 39),
        (66, 10, 2, 39),
        (1000, 10, 2, 39),
        (1000, 50, 2, 49),
        (10_000, 100, 2, 44),
        (10_000, 500, 2, 51),
    ],
)
def test_known_answers_of_neighbourhoods(n: int, c: int, k: int, t: int) -> None:
    assert shares_needed(hospitals=n, colluding=c, min_honest=k) == t


@given(n=st.integers(66, 400), share=st.floats(0, 1), k=st.integers(2, 70))
def test_what_the_number_must_guarantee_in_a_neighbourhood(n: int, share: float, k: int) -> None:
    c, m = int(share * n), 65
    x = colluders_nearby(hospitals=n, colluding=c)
    if x + k > m:
        with pytest.raises(ValueError, match="may stand in one neighbourhood of 65"):
            shares_needed(hospitals=n, colluding=c, min_honest=k)
        return
    t = shares_needed(hospitals=n, colluding=c, min_honest=k)

    assert t <= m
    assert c + k <= n
    assert (t - x) - (m - t) >= k  # of t - x honest ones, a hospital itself leaves out m - t
    assert 2 * (t - 1) - x - m < k  # and no smaller number would do


def test_too_many_nearby_are_refused_with_the_arithmetic() -> None:
    with pytest.raises(
        ValueError, match=r"of 70 colluding among 100 hospitals, 64 .* = 66 shares.*at most 63"
    ):
        shares_needed(hospitals=100, colluding=70, min_honest=2)


def successes(draws: int, chance: Callable[[int, int], float]) -> list[float]:
    """How many draws succeed, by drawing; the chance depends on the draws and successes before."""
    found = [1.0]
    for draw in range(draws):
        grown = [0.0] * (draw + 2)
        for so_far, weight in enumerate(found):
            grown[so_far] += weight * (1 - chance(draw, so_far))
            grown[so_far + 1] += weight * chance(draw, so_far)
        found = grown
    return found


def colluders_drawn(n: int, c: int) -> list[float]:
    """How likely how many of the 64 neighbours of an honest hospital collude."""
    return successes(64, lambda drawn, x: max(0, c - x) / (n - 1 - drawn))


def left(n: int, dropping: float) -> list[float]:
    """How likely how many of n hospitals are left."""
    return successes(n, lambda _, __: 1 - dropping)


# --- Colluders nearby -----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 3, 20, 80])
@pytest.mark.parametrize(
    ("n", "c"), [(66, 3), (66, 40), (100, 20), (200, 7), (1000, 50), (5000, 5), (10_000, 1000)]
)
def test_more_colluders_nearby_are_as_unlikely_as_said_and_one_less_is_not(
    n: int, c: int, bits: int
) -> None:
    x = colluders_nearby(hospitals=n, colluding=c, bits=bits)
    drawn = colluders_drawn(n, c)

    assert n * sum(drawn[x + 1 :]) <= 2.0**-bits * (1 + 1e-6)
    assert x == 0 or n * sum(drawn[x:]) > 2.0**-bits * (1 - 1e-6)


def test_the_tail_is_summed_exactly() -> None:
    """66 hospitals, 1 of them no neighbour: with c colluders, that one or none is missing."""
    for c in range(1, 66):
        for bits in range(12):
            all_near = Fraction(comb(65 - c, 64 - c), comb(65, 64)) if c <= 64 else Fraction(0)
            assert all_near == Fraction(65 - c, 65)
            fewest = min(c, 64) if 66 * all_near > Fraction(1, 2**bits) else c - 1
            assert colluders_nearby(hospitals=66, colluding=c, bits=bits) == fewest


def test_where_all_colluders_can_be_near_nothing_is_left_to_chance() -> None:
    assert [colluders_nearby(hospitals=64, colluding=c) for c in (0, 5, 64)] == [0, 5, 64]
    assert [colluders_nearby(hospitals=10_000, colluding=c) for c in (0, 1, 5)] == [0, 1, 5]
    assert colluders_nearby(hospitals=100, colluding=100) == 64


# --- Too few are left -----------------------------------------------------------------------------


@pytest.mark.parametrize("dropping", [0.0, 0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(("n", "t"), [(3, 3), (10, 7), (64, 33), (65, 34)])
def test_the_chance_among_all_is_exact(n: int, t: int, dropping: float) -> None:
    found = chance_of_too_few(hospitals=n, threshold=t, dropping=dropping)

    assert found == pytest.approx(sum(left(n, dropping)[:t]), rel=1e-9)


@pytest.mark.parametrize("dropping", [0.0, 0.01, 0.1, 0.3, 1.0])
@pytest.mark.parametrize(("n", "t"), [(66, 34), (1000, 39), (10_000, 51)])
def test_the_chance_among_neighbours_is_a_union_bound(n: int, t: int, dropping: float) -> None:
    found = chance_of_too_few(hospitals=n, threshold=t, dropping=dropping)

    assert found == pytest.approx(min(1, n * sum(left(64, dropping)[: t - 1])), rel=1e-9)


@pytest.mark.parametrize("dropping", [-0.1, 1.1, float("nan")])
def test_what_is_no_probability_is_refused(dropping: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        chance_of_too_few(hospitals=100, threshold=34, dropping=dropping)


def test_the_table_in_the_document_is_what_is_computed() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("| n | c | x | t |"))
    rows = [line for line in lines[head + 2 : head + 11] if line.startswith("|")]

    assert rows == [row(n, c) for n in (100, 1000, 10_000) for c in (0, n // 100, n // 20)]


def row(n: int, c: int) -> str:
    x = colluders_nearby(hospitals=n, colluding=c)
    t = shares_needed(hospitals=n, colluding=c, min_honest=2)
    more = n * sum(colluders_drawn(n, c)[x + 1 :])
    chances = [chance_of_too_few(hospitals=n, threshold=t, dropping=p) for p in (0.05, 0.1, 0.2)]
    cells = [f"{n:,}", f"{c}", f"{x}", f"{t}", *map(power, (more, *chances))]
    return f"| {' | '.join(cells)} |"


def power(chance: float) -> str:
    """As the table shows it: rounded up to one digit."""
    if chance in (0, 1):
        return f"{chance:.0f}"
    exponent = floor(log10(chance))
    digit = ceil(chance / 10.0**exponent)
    return f"10^{exponent + 1}" if digit == 10 else f"{digit} * 10^{exponent}"
