"""How many shares: the protocol's own examples, and what the number must guarantee."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.study.threshold import shares_needed


@pytest.mark.parametrize(
    ("n", "c", "k", "t"),
    [(3, 0, 2, 3), (4, 0, 2, 3), (5, 1, 2, 4), (10, 2, 2, 7), (2, 0, 2, 2), (5, 0, 5, 5)],
)
def test_known_answers(n: int, c: int, k: int, t: int) -> None:
    assert shares_needed(hospitals=n, colluding=c, min_honest=k) == t


@given(n=st.integers(1, 200), c=st.integers(0, 100), k=st.integers(2, 100))
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
