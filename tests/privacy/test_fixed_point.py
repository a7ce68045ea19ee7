"""Fixed point: sums mean sums, never wrap around, and rounding favours no side."""

from __future__ import annotations

import hashlib
import math
import tracemalloc
from collections.abc import Callable
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy import fixed_point, parts
from fedward.privacy.fixed_point import FixedPoint

BOUNDS = st.floats(1e-30, 1e30)
EDGE = 2**31 - 1


class Noise:
    """In place of a key stream: the same word again and again, or these in turn."""

    def __init__(self, *words: int) -> None:
        self.words = words

    def __call__(self, seed: bytes, *, block: int) -> Noise:
        self.numbers = cycle(self.words)
        return self

    def read_into(self, room: memoryview) -> None:
        words = np.fromiter(self.numbers, dtype="<i4", count=len(room) // 4)
        room[:] = words.tobytes()


LOWEST, HIGHEST = Noise(-(2**31)), Noise(2**31 - 1)


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Callable[[Noise], None]:
    """Sets the noise of what is encoded from now on."""
    return lambda source: monkeypatch.setattr(fixed_point, "KeyStream", source)


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


def test_rounding_goes_down_or_up_to_the_next_whole_number(
    noise: Callable[[Noise], None],
) -> None:
    code = FixedPoint(scale=1.0, hospitals=1)
    values = np.array([2.25, -2.25, 3.0, -3.0, 0.0])

    noise(LOWEST)
    assert code.decode(code.encode(values, rng=rng())).tolist() == [2, -3, 3, -3, 0]
    noise(HIGHEST)
    assert code.decode(code.encode(values, rng=rng())).tolist() == [3, -2, 3, -3, 0]


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
def test_sums_at_the_edge_cannot_wrap_around(
    bound: float, hospitals: int, noise: Callable[[Noise], None]
) -> None:
    code = FixedPoint.for_bound(bound, hospitals)
    edge = np.array([bound, -bound, math.nextafter(bound, 0)])

    for source in (LOWEST, HIGHEST):
        noise(source)
        words = code.encode(edge, rng=rng()).view(np.int32).astype(np.int64)
        assert np.abs(words * hospitals).max() <= EDGE
        assert abs(words[0] + words[1]) <= 1 < words[0]
    assert hospitals * code.error_bound <= 2 * bound * hospitals**2 / 2**31


@pytest.mark.parametrize("power", range(32))
@pytest.mark.parametrize("source", [LOWEST, HIGHEST], ids=["lowest", "highest"])
def test_no_noise_moves_a_whole_number(
    source: Noise, power: int, noise: Callable[[Noise], None]
) -> None:
    """Nor halves: half a step too much, in double precision, would move every odd one."""
    code, top = FixedPoint(scale=1.0, hospitals=1), 2**power
    whole = [top - 1, top // 2 + 1, -(top // 2), 1 - top]

    noise(source)
    found = code.decode(code.encode(np.array(whole, dtype=np.float64), rng=rng()))

    assert found.tolist() == whole


@pytest.mark.parametrize("base", [0, 1, -1, 2**20, 2**27, 2**30])
@pytest.mark.parametrize("fraction", [0.0, 2**-12, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 2**-12])
def test_the_share_that_is_rounded_up_is_the_fraction(
    fraction: float, base: int, noise: Callable[[Noise], None]
) -> None:
    """Over noise that takes evenly spaced values, so without any chance."""
    draws = 2**16
    noise(Noise(*range(-(2**31) + 2**15, 2**31, 2**16)))
    code = FixedPoint(scale=1.0, hospitals=1)

    found = code.decode(code.encode(np.full(draws, base + fraction), rng=rng()))

    assert set(np.unique(found)) <= {base, base + 1}
    assert abs((found - base).mean() - fraction) <= 1 / draws


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
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


@pytest.mark.parametrize("place", [0, 7, 65_536, 300_000])
@pytest.mark.parametrize("value", [1.0000001, -1.0000001, math.inf, -math.inf, math.nan, 1e300])
def test_a_value_beyond_the_bound_is_refused(value: float, place: int) -> None:
    values = np.zeros(300_001)
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
    code, values = FixedPoint.for_bound(1.0, 3), np.zeros(2_000_000, dtype=np.float32)
    tracemalloc.start()
    code.encode(values, rng=rng(), factor=0.5, threads=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8_000_000 + 2_000_000


# --- On the way: a factor, a place to write to, threads -------------------------------------------


@given(
    factor=st.floats(-1e3, 1e3),
    scale=st.floats(1e-3, 1e3),
    values=st.lists(st.floats(-1e3, 1e3, width=32), max_size=40),
    single=st.booleans(),
)
def test_a_factor_is_the_product_encoded(
    factor: float, scale: float, values: list[float], single: bool
) -> None:
    code = FixedPoint(scale, 1)
    double = np.array(values)
    array = double.astype(np.float32) if single else double

    found = code.encode(array, rng=rng(), factor=factor)

    assert np.array_equal(found, code.encode(double * factor, rng=rng()))


@given(
    size=st.integers(0, 200),
    threads=st.integers(1, 9),
    blocks=st.integers(1, 6),
    factor=st.floats(-1, 1),
)
def test_parts_and_chunks_of_any_size_give_the_same_words(
    size: int, threads: int, blocks: int, factor: float
) -> None:
    code, values = FixedPoint.for_bound(1.0, 3), rng(size).uniform(-1, 1, size)
    expected = code.encode(values, rng=rng(1), factor=factor, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_WORTH_A_THREAD", 1)
        patch.setattr(fixed_point, "_CHUNK", 4 * blocks)
        found = code.encode(values, rng=rng(1), factor=factor, threads=threads)

    assert np.array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 2, 3, None])
def test_a_long_vector_is_the_same_for_any_number_of_threads(threads: int | None) -> None:
    code, values = FixedPoint.for_bound(5.0, 16), rng().uniform(-5, 5, 700_001).astype(np.float32)

    found = code.encode(values, rng=rng(1), factor=0.5, threads=threads)

    expected = "86b6bc1f05ee577e"
    assert hashlib.sha256(found.astype("<u4").tobytes()).hexdigest()[:16] == expected


def test_rounding_is_independent_from_value_to_value() -> None:
    found = FixedPoint(scale=1.0, hospitals=1).encode(np.full(500_000, 0.5), rng=rng(3)).astype(int)

    for lag in (1, 2, 4, 65_536, 250_000):
        agreeing = (found[lag:] == found[:-lag]).mean()
        assert abs(agreeing - 0.5) < 5 * 0.5 / (found.size - lag) ** 0.5


@given(size=st.integers(0, 30), before=st.integers(0, 9), after=st.integers(0, 9))
def test_a_slice_of_the_contribution_is_written_in_place(
    size: int, before: int, after: int
) -> None:
    code, values = FixedPoint.for_bound(1.0, 3), rng(size).uniform(-1, 1, size)
    whole = np.full(before + size + after, 7, dtype=np.uint32)
    place = whole[before : before + size]

    found = code.encode(values, rng=rng(1), out=place)

    assert found is place
    assert whole.tolist() == [7] * before + code.encode(values, rng=rng(1)).tolist() + [7] * after


def test_a_strided_place_is_written_too() -> None:
    whole = np.zeros(6, dtype=np.uint32)
    FixedPoint(scale=1.0, hospitals=1).encode(np.array([1.0, 2, 3]), rng=rng(), out=whole[::-2])

    assert whole.tolist() == [0, 3, 0, 2, 0, 1]


def locked(size: int) -> NDArray[np.uint32]:
    place = np.zeros(size, dtype=np.uint32)
    place.flags.writeable = False
    return place


@pytest.mark.parametrize(
    "place",
    [
        np.zeros(2, dtype=np.uint32),
        np.zeros(4, dtype=np.uint32),
        np.zeros((3, 1), dtype=np.uint32),
        np.zeros(3, dtype=np.int32),
        np.zeros(3, dtype=np.uint64),
        np.zeros(3, dtype=">u4"),
        locked(3),
    ],
    ids=["short", "long", "2-d", "int32", "uint64", "big-endian", "locked"],
)
def test_another_kind_of_place_is_refused(place: NDArray[np.uint32]) -> None:
    with pytest.raises(ValueError, match="uint32"):
        FixedPoint(scale=1.0, hospitals=1).encode(np.ones(3), rng=rng(), out=place)
    assert not place.any()


@pytest.mark.parametrize("factor", [1.0000001, -1.0000001, 1e300, math.inf, math.nan])
def test_a_product_beyond_the_bound_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="beyond the bound"):
        FixedPoint.for_bound(1.0, 3).encode(np.array([0.5, -1]), rng=rng(), factor=factor)


def test_a_factor_brings_values_within_the_bound() -> None:
    code = FixedPoint.for_bound(1.0, 3)

    assert code.decode(code.encode(np.array([8.0]), rng=rng(), factor=0.125)) == pytest.approx(1)
    assert code.encode(np.array([1e300, -1e300]), rng=rng(), factor=0.0).tolist() == [0, 0]


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="thread"):
        FixedPoint(scale=1.0, hospitals=1).encode(np.ones(3), rng=rng(), threads=threads)


def test_the_next_vector_has_other_noise() -> None:
    source, values = rng(), np.full(1000, 0.5)
    code = FixedPoint(scale=1.0, hospitals=1)

    assert not np.array_equal(code.encode(values, rng=source), code.encode(values, rng=source))


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
