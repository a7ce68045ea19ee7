"""The key schedule against HKDF written out, and everything that must change a secret."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest

from fedward.privacy.advert import Advert
from fedward.privacy.key_schedule import pair_seed, round_context, seal_key, self_seed

SHARED = bytes(range(32))
CONTEXT = bytes(range(100, 132))
ADVERTS = [Advert("s", "r", name, name.encode() * 32, name.encode() * 64) for name in "abc"]
TERMS: dict[str, Any] = {"study": "s", "run": "r", "round": 1, "attempt": 0, "adverts": ADVERTS}


def hkdf(ikm: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    """RFC 5869, sections 2.2 and 2.3, written out."""
    prk = hmac.digest(salt, ikm, "sha256")
    okm, block, number = b"", b"", 0
    while len(okm) < size:
        number += 1
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        okm += block
    return okm[:size]


def field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def test_the_oracle_gives_the_answer_of_rfc_5869() -> None:
    """Appendix A.1."""
    info = bytes(range(0xF0, 0xFA))
    assert hkdf(b"\x0b" * 22, bytes(range(13)), info, 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_a_pair_seed_is_hkdf_over_label_and_sorted_names() -> None:
    info = field(b"fedward/1/pair mask") + field(b"a") + field("é".encode())

    assert pair_seed(SHARED, CONTEXT, "é", "a") == hkdf(SHARED, CONTEXT, info, 32)


def test_a_seal_key_is_hkdf_over_label_sender_and_receiver() -> None:
    info = field(b"fedward/1/share seal") + field(b"b") + field(b"a")

    assert seal_key(SHARED, CONTEXT, "b", "a") == hkdf(SHARED, CONTEXT, info, 32)


def test_the_secrets_of_a_round_stay_what_they_are() -> None:
    """Another answer here means another protocol: raise the version in the labels."""
    context = round_context(**TERMS)

    assert context.hex() == PINNED_CONTEXT
    assert pair_seed(SHARED, context, "a", "b").hex() == PINNED_SEED
    assert seal_key(SHARED, context, "a", "b").hex() == PINNED_KEY


PINNED_CONTEXT = "0ad949f5e36c82c4d95c0000acfeb8678a312f3055cc8809cffbfe529d1f1ceb"
PINNED_SEED = "584bfeec29bb67183c5f684c0aa4428e10def6a6718f3689f60f5066cbefacd7"
PINNED_KEY = "faa207b69f9aeac52ad35a3ac6bb5aa7ede6c67b0af8e0dd621fa7ad5b32698a"


def test_a_context_is_sha_256_over_framed_fields() -> None:
    numbers = [field((1).to_bytes(8, "big")), field(bytes(8)), field(b"")]
    adverts = [
        field(b"s") + field(b"r") + field(n) + field(n * 32) + field(n * 64)
        for n in (b"a", b"b", b"c")
    ]
    head = field(b"fedward/1/round context") + field(b"s") + field(b"r")

    expected = hashlib.sha256(head + b"".join(numbers + adverts)).digest()
    assert round_context(**TERMS) == expected


def test_both_ends_derive_the_same_seed_and_each_direction_its_own_key() -> None:
    assert pair_seed(SHARED, CONTEXT, "a", "b") == pair_seed(SHARED, CONTEXT, "b", "a")
    assert seal_key(SHARED, CONTEXT, "a", "b") != seal_key(SHARED, CONTEXT, "b", "a")


def test_a_hospital_seals_for_itself_but_has_no_mask_with_itself() -> None:
    assert len(seal_key(SHARED, CONTEXT, "a", "a")) == 32
    with pytest.raises(ValueError, match="itself"):
        pair_seed(SHARED, CONTEXT, "a", "a")


def test_no_two_secrets_of_a_round_are_the_same() -> None:
    names = ["a", "b", "ab", "c", "abc"]
    seeds = {pair_seed(SHARED, CONTEXT, *pair) for pair in combinations(names, 2)}
    keys = {seal_key(SHARED, CONTEXT, one, other) for one in names for other in names}

    assert len(seeds) == 10
    assert len(keys) == 25
    assert not seeds & keys


@pytest.mark.parametrize("derive", [pair_seed, seal_key])
def test_every_bit_of_secret_and_context_counts(
    derive: Callable[[bytes, bytes, str, str], bytes],
) -> None:
    found = {derive(SHARED, CONTEXT, "a", "b")}
    for bit in range(256):
        found.add(derive(flipped(SHARED, bit), CONTEXT, "a", "b"))
        found.add(derive(SHARED, flipped(CONTEXT, bit), "a", "b"))

    assert len(found) == 1 + 2 * 256
    assert {len(secret) for secret in found} == {32}


@pytest.mark.parametrize("derive", [pair_seed, seal_key])
@pytest.mark.parametrize(("shared", "context"), [(0, 32), (31, 32), (33, 32), (32, 0), (32, 33)])
def test_another_length_is_a_programmer_s_error(
    derive: Callable[[bytes, bytes, str, str], bytes], shared: int, context: int
) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        derive(bytes(shared), bytes(context), "a", "b")


# --- The context ----------------------------------------------------------------------------------


def test_the_order_of_adverts_does_not_matter_and_any_iterable_will_do() -> None:
    assert round_context(**{**TERMS, "adverts": reversed(ADVERTS)}) == round_context(**TERMS)
    assert round_context(**{**TERMS, "adverts": iter(ADVERTS)}) == round_context(**TERMS)


@pytest.mark.parametrize(
    "change",
    [
        {"study": "t"},
        {"run": "q"},
        {"study": "sr", "run": ""},
        {"round": 2},
        {"round": 0, "attempt": 1},
        {"attempt": 1},
        {"told": b"model"},
        {"adverts": ADVERTS[:2]},
        {"adverts": [*ADVERTS, Advert("s", "r", "d", bytes(32), bytes(64))]},
        {"adverts": [*ADVERTS[:2], replace(ADVERTS[2], public_key=bytes(32))]},
        {"adverts": [*ADVERTS[:2], replace(ADVERTS[2], signature=bytes(64))]},
        {"adverts": [*ADVERTS[:2], replace(ADVERTS[2], hospital="d")]},
        {"adverts": [*ADVERTS[:2], replace(ADVERTS[2], run="other")]},
        {"adverts": [*ADVERTS[:2], replace(ADVERTS[2], study="sr", run="")]},
    ],
    ids=str,
)
def test_whatever_one_hospital_is_told_differently_changes_the_context(
    change: dict[str, object],
) -> None:
    assert round_context(**{**TERMS, **change}) != round_context(**TERMS)


@pytest.mark.parametrize("adverts", [[], [ADVERTS[0], replace(ADVERTS[0], public_key=bytes(32))]])
def test_one_advert_a_hospital(adverts: list[Advert]) -> None:
    with pytest.raises(ValueError, match="one advert"):
        round_context(**{**TERMS, "adverts": adverts})


@pytest.mark.parametrize("number", [-1, 2**64])
@pytest.mark.parametrize("key", ["round", "attempt"])
def test_a_number_out_of_range_is_a_programmer_s_error(key: str, number: int) -> None:
    with pytest.raises(ValueError, match="lie in"):
        round_context(**{**TERMS, key: number})


def test_self_seeds_are_fresh() -> None:
    seeds = {self_seed() for _ in range(100)}

    assert len(seeds) == 100
    assert {len(seed) for seed in seeds} == {32}


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
