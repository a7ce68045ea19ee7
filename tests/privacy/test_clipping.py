"""Clipping: within the bound, in the same direction, whatever the number of threads."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy import clipping, parts
from fedward.privacy.clipping import clip_factor, clip_norm, l2_norm
from fedward.privacy.fixed_point import FixedPoint


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(
    bound=st.floats(1e-12, 1e12),
    factor=st.floats(1e-3, 1e3),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_a_clipped_update_is_within_the_bound_and_points_the_same_way(
    bound: float, factor: float, size: int, seed: int
) -> None:
    direction = rng(seed).normal(size=size)
    update = (direction / np.linalg.norm(direction) * bound * factor).astype(np.float32)
    norm = np.linalg.norm(update.astype(np.float64))

    clipped = clip_norm(update, bound)

    length = np.linalg.norm(clipped.astype(np.float64))
    if norm <= bound:
        assert clipped is update
    else:
        assert bound * (1 - 1e-6) <= length <= bound
        assert clipped.astype(np.float64) * norm == pytest.approx(update * bound, rel=1e-6)


@given(
    bound=st.floats(1e-12, 1e12),
    factor=st.floats(1e-3, 1e3),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
)
def test_the_factor_clips_without_a_copy(bound: float, factor: float, size: int, seed: int) -> None:
    direction = rng(seed).normal(size=size)
    update = (direction / np.linalg.norm(direction) * bound * factor).astype(np.float32)

    shorter = clip_factor(update, bound)

    length = np.linalg.norm(update.astype(np.float64) * shorter)
    if l2_norm(update) <= bound:
        assert shorter == 1.0
    else:
        assert bound * (1 - 1e-6) <= length <= bound
    assert np.array_equal(clip_norm(update, bound), (update * np.float64(shorter)).astype("f4"))


@pytest.mark.parametrize("bound", [0.1, 1 / 3, 1.0, 7.7])
@pytest.mark.parametrize("value", [1e3, -1e3, 3e38, 0.4])
def test_what_was_clipped_can_always_be_encoded(bound: float, value: float) -> None:
    update = np.array([value, 0, 0], dtype=np.float32)

    code = FixedPoint.for_bound(bound, 3)
    code.encode(clip_norm(update, bound), rng=rng())
    code.encode(update, factor=clip_factor(update, bound), rng=rng())


def test_the_norm_is_taken_in_double_precision() -> None:
    """In single precision the square of 1e30 is infinite, and that of 1e-30 is zero."""
    for value in (1e30, 1e-30):
        update = np.full(40_000, value, dtype=np.float32)

        assert clip_norm(update, 201 * value) is update
        assert clip_norm(update, 199 * value) == pytest.approx(update * 0.995, rel=1e-6)


def test_the_update_itself_is_not_changed() -> None:
    update = np.array([3, 4], dtype=np.float32)

    assert clip_norm(update, 1.0) == pytest.approx([0.6, 0.8], rel=1e-6)
    assert update.tolist() == [3, 4]
    assert clip_norm(update, 5.0) is update


def test_nothing_and_zero_are_within_any_bound() -> None:
    assert clip_norm(np.zeros(0, dtype=np.float32), 1e-9).size == 0
    assert clip_norm(np.zeros(5, dtype=np.float32), 1e-9).tolist() == [0] * 5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 8191, 8192, 65_536, 300_000])
def test_an_update_that_is_not_finite_is_refused(value: float, place: int) -> None:
    update = np.zeros(300_001, dtype=np.float32)
    update[place] = value

    for clip in (clip_norm, clip_factor):
        with pytest.raises(ValueError, match="finite"):
            clip(update, 1.0)
    with pytest.raises(ValueError, match="finite"):
        l2_norm(update)


@pytest.mark.parametrize("bound", [0, -1, math.inf, math.nan])
@pytest.mark.parametrize("clip", [clip_norm, clip_factor])
def test_an_impossible_bound_is_refused(
    clip: Callable[[NDArray[np.float32], float], object], bound: float
) -> None:
    with pytest.raises(ValueError, match="not possible"):
        clip(np.ones(2, dtype=np.float32), bound)


@pytest.mark.parametrize("update", [np.ones((2, 2), dtype=np.float32), np.ones(2)])
def test_another_kind_of_update_is_refused(update: NDArray[np.float32]) -> None:
    for clip in (clip_norm, clip_factor):
        with pytest.raises(ValueError, match="not possible"):
            clip(update, 1.0)
    with pytest.raises(ValueError, match="not possible"):
        l2_norm(update)


# --- The norm -------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 9),
)
def test_the_norm_is_the_exact_one_rounded(
    values: list[float], row: int, rows: int, threads: int
) -> None:
    update = np.array(values, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_WORTH_A_THREAD", 1)
        patch.setattr(clipping, "_ROW", row)
        patch.setattr(clipping, "_CHUNK", row * rows)
        found = l2_norm(update, threads=threads)

    exact = sum(Fraction(float(value)) ** 2 for value in update)
    assert found == pytest.approx(math.sqrt(exact), rel=1e-14)


@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 65_537, 1_000_003])
def test_the_norm_is_the_same_bit_for_bit_for_any_number_of_threads(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_WORTH_A_THREAD", 1)
    update = rng(size).standard_normal(size, dtype=np.float32)

    norms = {l2_norm(update, threads=threads) for threads in (1, 2, 3, 7, None)}

    assert len(norms) == 1
    assert norms.pop() == pytest.approx(np.linalg.norm(update.astype(np.float64)), rel=1e-12)


def test_strided_and_locked_updates_have_a_norm() -> None:
    update = np.arange(6, dtype=np.float32)
    update.flags.writeable = False

    assert l2_norm(update[::-2]) == pytest.approx(math.sqrt(5**2 + 3**2 + 1))


def test_taking_the_norm_copies_nothing_large() -> None:
    update = np.ones(2_000_000, dtype=np.float32)
    tracemalloc.start()
    l2_norm(update, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1_000_000
