"""Fixed point: sums mean sums, never wrap around, and rounding favours no side."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy.fixed_point import FixedPoint, clip_norm

BOUNDS = st.floats(1e-30, 1e30)
EDGE = 2**31 - 1


class Fixed(np.random.Generator):
    """A source whose every number is the same."""

    def __init__(self, value: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.value = value

    def random(self, size: int) -> NDArray[np.float64]:  # type: ignore[override]
        return np.full(size, self.value)


LOW, HIGH = Fixed(0.0), Fixed(1 - 2**-53)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def total(words: list[NDArray[np.uint32]]) -> NDArray[np.uint32]:
    return sum(words[1:], words[0])


# --- The code -------------------------------------------------------------------------------------


def test_a_known_answer() -> None:
    code = FixedPoint(scale=4.0, hospitals=3)
    values = np.array([0, 1, -1, 0.25, -2.5])

    words = code.encode(values, rng=rng())

    assert words.tolist() == [0, 4, 2**32 - 4, 1, 2**32 - 10]
    assert code.decode(words).tolist() == values.tolist()
    assert code.error_bound == 0.25


def test_rounding_goes_down_or_up_to_the_next_whole_number() -> None:
    code = FixedPoint(scale=1.0, hospitals=1)
    values = np.array([2.25, -2.25, 3.0, -3.0, 0.0])

    assert code.decode(code.encode(values, rng=HIGH)).tolist() == [2, -3, 3, -3, 0]
    assert code.decode(code.encode(values, rng=LOW)).tolist() == [3, -2, 3, -3, 0]


def test_the_bits_that_sixteen_hospitals_leave() -> None:
    code = FixedPoint.for_bound(1.0, 16)

    assert code.scale == 2**27 - 1
    assert code.error_bound < 1e-7


@given(bound=BOUNDS, hospitals=st.integers(1, 64), size=st.integers(0, 40), seed=st.integers(0, 99))
def test_the_decoded_sum_is_the_plain_sum_within_the_bound(
    bound: float, hospitals: int, size: int, seed: int
) -> None:
    code, source = FixedPoint.for_bound(bound, hospitals), rng(seed)
    plain = source.uniform(-bound, bound, (hospitals, size))

    found = code.decode(total([code.encode(row, rng=source) for row in plain]))

    slack = hospitals * bound * 1e-14
    assert found.shape == (size,)
    assert np.all(np.abs(found - plain.sum(axis=0)) <= hospitals * code.error_bound + slack)


@pytest.mark.parametrize("hospitals", [*range(1, 65), 1000, 65535])
@pytest.mark.parametrize("bound", [1.0, 0.1, 3.7, 1 / 3, 1e-30, 1e30])
def test_sums_at_the_edge_cannot_wrap_around(bound: float, hospitals: int) -> None:
    code = FixedPoint.for_bound(bound, hospitals)
    edge = np.array([bound, -bound, math.nextafter(bound, 0)])

    for source in (LOW, HIGH):
        words = code.encode(edge, rng=source).view(np.int32).astype(np.int64)
        assert np.abs(words * hospitals).max() <= EDGE
        assert abs(words[0] + words[1]) <= 1 < words[0]
    assert hospitals * code.error_bound <= 2 * bound * hospitals**2 / 2**31


def test_a_random_number_close_to_one_does_not_round_a_whole_number_up() -> None:
    """floor(x + u) would: the sum of 2**31 - 1 and 1 - 2**-53 is 2**31 in double precision."""
    code = FixedPoint(scale=1.0, hospitals=1)

    assert code.encode(np.array([float(EDGE)]), rng=HIGH).tolist() == [EDGE]
    assert code.encode(np.array([float(EDGE)]), rng=LOW).tolist() == [EDGE]


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 100_000])
@pytest.mark.parametrize("single", [True, False])
def test_any_size_is_encoded_whole(size: int, single: bool) -> None:
    code = FixedPoint.for_bound(2.0, 5)
    wide = rng(size).uniform(-2, 2, size)
    values = wide.astype(np.float32) if single else wide
    before = values.copy()

    found = code.decode(code.encode(values, rng=rng()))

    assert np.array_equal(values, before)
    assert found.size == size
    assert np.all(np.abs(found - values) <= code.error_bound * (1 + 1e-6))


def test_strided_and_locked_values_are_encoded() -> None:
    code = FixedPoint(scale=1.0, hospitals=1)
    values = np.arange(6.0)
    values.flags.writeable = False

    assert code.encode(values[::-2], rng=rng()).tolist() == [5, 3, 1]


def test_the_same_source_gives_the_same_words() -> None:
    code, values = FixedPoint.for_bound(1.0, 3), rng().uniform(-1, 1, 1000)

    assert np.array_equal(code.encode(values, rng=rng(1)), code.encode(values, rng=rng(1)))
    assert not np.array_equal(code.encode(values, rng=rng(1)), code.encode(values, rng=rng(2)))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 0.9, -0.1, -0.5, -3.3, 1000.001, -77.999])
def test_rounding_has_the_right_mean_and_spread(value: float) -> None:
    code, draws = FixedPoint(scale=1.0, hospitals=1), 200_000

    found = code.decode(code.encode(np.full(draws, value), rng=rng(7)))

    fraction = value - math.floor(value)
    spread = math.sqrt(fraction * (1 - fraction))
    assert abs(found.mean() - value) <= 5 * spread / math.sqrt(draws) + 1e-12
    assert set(np.unique(found)) <= {math.floor(value), math.ceil(value)}


@pytest.mark.parametrize("place", [0, 7, 16384, 20_000])
@pytest.mark.parametrize("value", [1.0000001, -1.0000001, math.inf, -math.inf, math.nan, 1e300])
def test_a_value_beyond_the_bound_is_refused(value: float, place: int) -> None:
    values = np.zeros(20_001)
    values[place] = value

    with pytest.raises(ValueError, match="beyond the bound"):
        FixedPoint.for_bound(1.0, 3).encode(values, rng=rng())


def test_the_next_number_after_the_bound_is_refused() -> None:
    code = FixedPoint.for_bound(0.1, 3)

    code.encode(np.array([0.1, -0.1]), rng=rng())
    with pytest.raises(ValueError, match="beyond"):
        code.encode(np.array([math.nextafter(0.1, 1)]), rng=rng())


@pytest.mark.parametrize("value", [EDGE + 0.25, -EDGE - 0.25, 1e10, math.inf])
def test_without_a_bound_there_is_still_no_wrapping_around(value: float) -> None:
    with pytest.raises(ValueError, match="beyond"):
        FixedPoint(scale=1.0, hospitals=1).encode(np.array([value]), rng=rng())


@pytest.mark.parametrize("values", [np.zeros((2, 2)), np.array(1.0), np.zeros(3, dtype=np.int64)])
def test_another_kind_of_array_is_not_encoded(values: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="vector of floats"):
        FixedPoint(scale=1.0, hospitals=1).encode(values, rng=rng())


@pytest.mark.parametrize("dtype", [np.int32, np.uint64, np.float64])
def test_another_kind_of_array_is_not_decoded(dtype: type[np.uint32]) -> None:
    with pytest.raises(ValueError, match="vector of uint32"):
        FixedPoint(scale=1.0, hospitals=1).decode(np.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("bound", "hospitals"),
    [(0, 1), (-1, 1), (math.inf, 1), (math.nan, 1), (1, 0), (1, -1), (1, 2**31), (5e-324, 1)],
)
def test_an_impossible_code_is_refused(bound: float, hospitals: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        FixedPoint.for_bound(bound, hospitals)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match="not possible"):
        FixedPoint(scale, 3)


def test_a_bound_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        FixedPoint(scale=1.0, hospitals=2, bound=2.0**30)


def test_encoding_copies_nothing_large() -> None:
    code, values = FixedPoint.for_bound(1.0, 3), np.zeros(1_000_000, dtype=np.float32)
    tracemalloc.start()
    code.encode(values, rng=rng())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4_000_000 + 1_000_000


# --- Counts ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=64))
def test_counts_add_up_exactly(counts: list[int]) -> None:
    code = FixedPoint.for_counts(10**6, len(counts))
    words = [code.encode(np.array([float(count)]), rng=rng()) for count in counts]

    assert code.decode(total(words)).tolist() == [sum(counts)]


def test_counts_use_the_whole_range_and_no_more() -> None:
    code = FixedPoint.for_counts(EDGE // 3, 3)
    words = code.encode(np.array([float(EDGE // 3)]), rng=rng())

    assert code.decode(total([words] * 3)).tolist() == [EDGE // 3 * 3]
    assert FixedPoint.for_counts(EDGE, 1).bound == EDGE
    for largest, hospitals in [(EDGE + 1, 1), (2**30, 2), (10**6, 2148), (0, 1), (1, 0), (-1, -1)]:
        with pytest.raises(ValueError, match="do not add up"):
            FixedPoint.for_counts(largest, hospitals)


def test_a_count_above_the_largest_is_refused() -> None:
    with pytest.raises(ValueError, match="beyond"):
        FixedPoint.for_counts(100, 3).encode(np.array([101.0]), rng=rng())


# --- Clipping -------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("bound", [0.1, 1 / 3, 1.0, 7.7])
@pytest.mark.parametrize("value", [1e3, -1e3, 3e38, 0.4])
def test_what_was_clipped_can_always_be_encoded(bound: float, value: float) -> None:
    update = np.array([value, 0, 0], dtype=np.float32)

    FixedPoint.for_bound(bound, 3).encode(clip_norm(update, bound), rng=rng())


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
def test_an_update_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        clip_norm(np.array([0, value], dtype=np.float32), 1.0)


@pytest.mark.parametrize("bound", [0, -1, math.inf, math.nan])
def test_an_impossible_bound_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match="not possible"):
        clip_norm(np.ones(2, dtype=np.float32), bound)


@pytest.mark.parametrize("update", [np.ones((2, 2), dtype=np.float32), np.ones(2)])
def test_another_kind_of_update_is_refused(update: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="not possible"):
        clip_norm(update, 1.0)
