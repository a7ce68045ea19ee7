"""Masks against AES written block by block; they cancel, for any length and number of threads."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.privacy import masks, parts
from fedward.privacy.masks import add_mask, add_masks

Words = NDArray[np.uint32]
SIZES = [0, 1, 3, 4, 5, 7, 8, 1023, 65535, 65536, 65537, 100_003, 131_073]
SEED = bytes(range(32))


def blocks_of(seed: bytes, size: int) -> Words:
    """The first words of a seed's stream: each counter block through bare AES."""
    counters = b"".join(i.to_bytes(16, "big") for i in range(-(-size // 4)))
    stream = Cipher(AES256(seed), ECB()).encryptor().update(counters)  # noqa: S305
    return np.frombuffer(stream, dtype="<u4")[:size].astype(np.uint32)


def random_words(size: int) -> Words:
    return np.random.default_rng(size).integers(0, 2**32, size, dtype=np.uint32)


def seeds_of(count: int) -> list[tuple[bytes, int]]:
    return [(bytes([i]) * 32, 1 if i % 3 else -1) for i in range(count)]


def test_the_first_words_of_the_zero_seed() -> None:
    """AES-256 of the blocks 0 and 1 under the zero key (GCM specification, test case 13)."""
    stream = bytes.fromhex("dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b")
    vector = np.zeros(8, dtype=np.uint32)
    add_mask(vector, bytes(32), sign=1)

    assert vector.astype("<u4").tobytes() == stream
    assert vector[0] == 0x78C095DC


@pytest.mark.parametrize("size", SIZES)
def test_a_mask_is_added_and_subtracted_modulo_2_to_the_32(size: int) -> None:
    before, stream = random_words(size), blocks_of(SEED, size)
    up, down = before.copy(), before.copy()
    add_mask(up, SEED, sign=1)
    add_mask(down, SEED, sign=-1)

    assert np.array_equal(up, before + stream)
    assert np.array_equal(down, before - stream)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, None])
@pytest.mark.parametrize("size", [*SIZES, 500_000])
def test_any_number_of_threads_gives_the_same(
    size: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_WORTH_A_THREAD", 1)
    seeds, vector = seeds_of(4), random_words(size)
    expected = vector.copy()
    for seed, sign in seeds:
        stream = blocks_of(seed, size)
        expected = expected + stream if sign > 0 else expected - stream

    add_masks(vector, seeds, threads=threads)

    assert np.array_equal(vector, expected)


@given(size=st.integers(0, 300), threads=st.integers(1, 9), blocks=st.integers(1, 5))
def test_parts_and_chunks_of_any_size_give_the_same(size: int, threads: int, blocks: int) -> None:
    vector, expected = random_words(size), random_words(size) + blocks_of(SEED, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_WORTH_A_THREAD", 1)
        patch.setattr(masks, "_CHUNK", 4 * blocks)
        add_masks(vector, [(SEED, 1)], threads=threads)

    assert np.array_equal(vector, expected)


def test_a_long_vector_is_divided_among_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.setattr(masks, "_mask", lambda part, start, seeds: found.append(part.size))
    add_masks(np.zeros(1_000_000, dtype=np.uint32), [], threads=4)
    add_masks(np.zeros(1000, dtype=np.uint32), [], threads=4)

    assert sorted(found) == [1000, 250_000, 250_000, 250_000, 250_000]


@given(hospitals=st.integers(2, 7), size=st.integers(0, 50))
def test_pair_masks_cancel_in_the_sum(hospitals: int, size: int) -> None:
    vectors = [random_words(size) for _ in range(hospitals)]
    expected = sum(vectors, np.zeros(size, dtype=np.uint32))
    for low, high in combinations(range(hospitals), 2):
        seed = bytes([low, high]) * 16
        add_mask(vectors[low], seed, sign=1)
        add_mask(vectors[high], seed, sign=-1)

    assert np.array_equal(sum(vectors, np.zeros(size, dtype=np.uint32)), expected)


@pytest.mark.parametrize("size", [1, 100_003, 1_000_000])
def test_what_was_added_can_be_taken_away(size: int) -> None:
    vector = random_words(size)
    add_masks(vector, seeds_of(5))
    assert not np.array_equal(vector, random_words(size))
    add_masks(vector, [(seed, -sign) for seed, sign in seeds_of(5)])

    assert np.array_equal(vector, random_words(size))


def test_no_seeds_change_nothing() -> None:
    vector = random_words(100)
    add_masks(vector, [])

    assert np.array_equal(vector, random_words(100))


def test_a_mask_looks_uniform() -> None:
    vector = np.zeros(1_000_000, dtype=np.uint32)
    add_mask(vector, SEED, sign=1)
    counts = np.bincount(vector.view(np.uint8), minlength=256)
    chi_square = float(((counts - counts.mean()) ** 2).sum() / counts.mean())
    ones = np.unpackbits(vector.view(np.uint8).reshape(-1, 4), axis=1).mean(axis=0)

    assert 255 - 5 * 510**0.5 < chi_square < 255 + 5 * 510**0.5
    assert np.abs(ones - 0.5).max() < 5 * 0.5 / 1000
    assert np.unique(vector).size > 999_000  # a cycle would be short; birthdays take about 116


def test_seeds_that_differ_in_one_bit_give_unlike_masks() -> None:
    one, other = np.zeros((2, 10_000), dtype=np.uint32)
    add_mask(one, SEED, sign=1)
    add_mask(other, bytes([SEED[0] ^ 1]) + SEED[1:], sign=1)
    share = np.unpackbits((one ^ other).view(np.uint8)).mean()

    assert abs(share - 0.5) < 5 * 0.5 / 320_000**0.5


def read_only() -> Words:
    vector = np.zeros(4, dtype=np.uint32)
    vector.flags.writeable = False
    return vector


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(4, dtype=np.int32),
        np.zeros(4, dtype=np.float32),
        np.zeros(4, dtype=np.uint64),
        np.zeros(4, dtype=">u4"),
        np.zeros((2, 2), dtype=np.uint32),
        np.zeros((), dtype=np.uint32),
        np.zeros(8, dtype=np.uint32)[::2],
        np.zeros(8, dtype=np.uint32)[::-1],
        read_only(),
    ],
    ids=["int32", "float32", "uint64", "big-endian", "2-d", "0-d", "strided", "reversed", "locked"],
)
def test_another_kind_of_array_is_refused(vector: Words) -> None:
    with pytest.raises(ValueError, match=r"uint32|contiguous"):
        add_mask(vector, SEED, sign=1)
    assert not vector.any()


@pytest.mark.parametrize("bad", [(b"", 1), (bytes(31), 1), (bytes(33), 1), (SEED, 0), (SEED, 2)])
def test_a_bad_seed_or_sign_is_refused_before_anything_is_added(bad: tuple[bytes, int]) -> None:
    vector = np.zeros(4, dtype=np.uint32)

    with pytest.raises(ValueError, match="mask"):
        add_masks(vector, [(SEED, 1), bad])
    assert not vector.any()


@pytest.mark.parametrize("threads", [0, -1])
def test_no_thread_is_refused(threads: int) -> None:
    with pytest.raises(ValueError, match="thread"):
        add_masks(np.zeros(4, dtype=np.uint32), [(SEED, 1)], threads=threads)
