"""The key stream against AES written block by block."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.key_stream import MOST_AT_ONCE, KeyStream

SEED = bytes(range(32))
WRAP = 2**32


def blocks_of(seed: bytes, first: int, count: int) -> bytes:
    """Some of a seed's blocks: their numbers through bare AES."""
    counters = b"".join(i.to_bytes(16, "big") for i in range(first, first + count))
    return Cipher(AES256(seed), ECB()).encryptor().update(counters)  # noqa: S305


def read(stream: KeyStream, *sizes: int) -> bytes:
    rooms = [bytearray(size) for size in sizes]
    for room in rooms:
        stream.read_into(memoryview(room))
    return b"".join(rooms)


def test_the_answer_of_sp_800_38a() -> None:
    """Appendix F.5.5, CTR-AES256: what its stream makes of its plaintext."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = bytes.fromhex(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    stream = read(KeyStream(key, block=counter), 64)

    assert bytes(p ^ s for p, s in zip(plain, stream, strict=True)).hex() == (
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


def test_the_first_blocks_of_the_zero_seed() -> None:
    """AES-256 of the blocks 0 and 1 under the zero key (GCM specification, test case 13)."""
    wanted = "dc95c078a2408989ad48a21492842087530f8afbc74536b9a963b4f1c4cb738b"

    assert read(KeyStream(bytes(32), block=0), 32).hex() == wanted


@pytest.mark.parametrize("first", [0, 1, 2, 3, 1000, 2**20 + 7, WRAP - 9, WRAP - 2])
def test_a_stream_begins_at_any_block(first: int) -> None:
    assert read(KeyStream(SEED, block=first), 128) == blocks_of(SEED, first, 8)


@given(first=st.integers(0, 50), sizes=st.lists(st.integers(0, 70), max_size=6))
def test_a_stream_is_read_in_pieces_of_any_size(first: int, sizes: list[int]) -> None:
    total = sum(sizes)

    found = read(KeyStream(SEED, block=first), *sizes)

    assert found == blocks_of(SEED, first, total // 16 + 1)[:total]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_another_length_of_seed_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyStream(bytes(size), block=0)


def test_more_than_there_are_zeros_for_is_refused() -> None:
    room = memoryview(bytearray(MOST_AT_ONCE + 1))

    with pytest.raises(ValueError, match="at most"):
        KeyStream(SEED, block=0).read_into(room)
    assert not any(room)
    KeyStream(SEED, block=0).read_into(room[:-1])
