"""A small cell is shown to nobody, and nobody can compute it from what is shown."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.small_cells import Cell, Hidden, safe_cells, shown
from fedward.privacy.statistics_table import CategorySums, NumberSums, TableSums

SMALL, BESIDE = Hidden.SMALL, Hidden.WITH_IT


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([20, 30], [20, 30]),
        ([3, 30], [SMALL, BESIDE]),
        ([3, 20, 100, 100], [SMALL, BESIDE, 100, 100]),
        ([0, 0, 50, 60], [SMALL, SMALL, BESIDE, 60]),  # that both are 0 would be known
        ([9, 9, 50, 90], [SMALL, SMALL, BESIDE, 90]),  # that both are 9 would be known
        ([3, 4, 5, 50], [SMALL, SMALL, SMALL, 50]),
        ([0, 10], [BESIDE, BESIDE]),  # a small one beside 10 or more of 10 would be 0
        ([3], [BESIDE]),
    ],
)
def test_known_groups(counts: list[float], wanted: list[Cell]) -> None:
    assert safe_cells(counts, 10) == wanted


def test_one_hides_nothing() -> None:
    assert safe_cells([0, 1, 2], 1) == [0, 1, 2]


def possible(cells: list[Cell], total: int, fewest: int, place: int) -> set[int]:
    """Every value that a hidden cell may have for whoever knows the total: all are tried."""
    if set(cells) == {BESIDE}:
        return set(range(total + 1))
    ranges = [
        [cell]
        if isinstance(cell, int)
        else range(fewest)
        if cell is SMALL
        else range(fewest, total + 1)
        for cell in cells
    ]
    return {given[place] for given in itertools.product(*ranges) if sum(given) == total}


@given(st.lists(st.integers(0, 12), min_size=2, max_size=5))
def test_whoever_subtracts_learns_no_more_than_that_a_cell_is_small(counts: list[int]) -> None:
    """By trying every table that fits: each small cell may still be 0 to k - 1."""
    fewest = 4
    cells = safe_cells([float(c) for c in counts], fewest)
    for place, cell in enumerate(cells):
        if isinstance(cell, int):
            assert cell == counts[place] >= fewest
        elif cell is SMALL:
            assert counts[place] < fewest
            left = possible(cells, sum(counts), fewest, place)
            assert left == set(range(fewest))


def number(cells: list[float], first: float, second: float, absent: float | None) -> NumberSums:
    return NumberSums("sex", 0.0, 1.0, absent, first, second, np.array(cells))


def test_a_mean_of_zeros_and_ones_does_not_tell_a_small_cell() -> None:
    """Whether 1, 3 or 5 of 200 have it, the table is the same."""
    tables = set()
    for few in (1, 3, 4):
        sums = number([200.0 - few, few], 2 * few - 200.0, 200.0, None)
        found = shown(TableSums(200.0, (sums,), (), None), 10)
        assert found is not None
        tables.add(found.model_dump_json())

    assert len(tables) == 1


def test_without_small_cells_a_mean_is_exact() -> None:
    sums = number([150.0, 50.0], 50.0 - 150.0, 200.0, None)
    found = shown(TableSums(200.0, (sums,), (), None), 10)

    assert found is not None
    assert found.numbers["sex"].mean == 0.25
    assert found.numbers["sex"].deviation == pytest.approx(np.sqrt(0.1875))


def test_few_values_have_no_mean_and_few_patients_no_table() -> None:
    sums = number([5.0, 4.0], 0.0, 9.0, 191.0)
    found = shown(TableSums(200.0, (sums,), (), None), 10)

    assert found is not None
    assert found.numbers["sex"].mean is found.numbers["sex"].deviation is None
    assert shown(TableSums(9.0, (sums,), (), None), 10) is None


def test_findings_of_several_are_hidden_by_who_has_none_too() -> None:
    classes = CategorySums("found", ("a", "b", "c"), np.array([50.0, 195.0, 3.0]), whole=False)
    found = shown(TableSums(200.0, (), (), classes), 10)

    assert found is not None
    assert found.classes == {"a": 50, "b": BESIDE, "c": SMALL}
