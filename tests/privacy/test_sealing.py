"""Sealing: RFC 8439's answer, and nothing but the whole token with its key and place opens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy import sealing
from fedward.privacy.protocol_errors import BadSeal
from fedward.privacy.sealing import OVERHEAD, seal, unseal

KEY = bytes(range(32))
LARGEST = 64 << 10


def test_the_cipher_gives_the_answer_of_rfc_8439() -> None:
    """Section 2.8.2."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the "
        b"future, sunscreen would be it."
    )
    nonce = bytes.fromhex("070000004041424344454647")
    aad = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")

    found = sealing._cipher(bytes(range(0x80, 0xA0))).encrypt(nonce, plain, aad)

    assert found[:16].hex() == "d31a8d34648e60db7b86afbc53ef7ec2"
    assert found[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"


def test_a_token_is_version_nonce_ciphertext_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedward.privacy.sealing.os.urandom", lambda size: b"n" * size)
    body = sealing._cipher(KEY).encrypt(b"n" * 12, b"share", b"\x01place")

    assert seal(KEY, b"share", bound_to=b"place") == b"\x01" + b"n" * 12 + body


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_a_round_trip(plaintext: bytes, bound_to: bytes) -> None:
    token = seal(KEY, plaintext, bound_to=bound_to)

    assert unseal(KEY, token, bound_to=bound_to) == plaintext
    assert len(token) == len(plaintext) + OVERHEAD == len(plaintext) + 29


@pytest.mark.parametrize("size", [0, 1, LARGEST])
def test_from_empty_to_the_largest(size: int) -> None:
    assert unseal(KEY, seal(KEY, bytes(size), bound_to=b""), bound_to=b"") == bytes(size)


def test_two_tokens_of_the_same_differ() -> None:
    assert len({seal(KEY, b"share", bound_to=b"") for _ in range(100)}) == 100


TOKEN = seal(KEY, b"a share", bound_to=b"place")


@pytest.mark.parametrize("bit", range(8 * len(TOKEN)))
def test_no_bit_of_a_token_may_change(bit: int) -> None:
    with pytest.raises(BadSeal):
        unseal(KEY, flipped(TOKEN, bit), bound_to=b"place")


@pytest.mark.parametrize("bit", range(256))
def test_every_bit_of_the_key_counts(bit: int) -> None:
    with pytest.raises(BadSeal):
        unseal(flipped(KEY, bit), TOKEN, bound_to=b"place")


@pytest.mark.parametrize("bound_to", [b"", b"plac", b"place\0", b"Place", b"\x01place"])
def test_another_place_fails(bound_to: bytes) -> None:
    with pytest.raises(BadSeal):
        unseal(KEY, TOKEN, bound_to=bound_to)


def test_every_shorter_and_a_longer_token_fails() -> None:
    for size in range(len(TOKEN)):
        with pytest.raises(BadSeal):
            unseal(KEY, TOKEN[:size], bound_to=b"place")
        with pytest.raises(BadSeal):
            unseal(KEY, TOKEN[size + 1 :], bound_to=b"place")
    for longer in (TOKEN + b"\0", b"\x01" + TOKEN, TOKEN * 2):
        with pytest.raises(BadSeal):
            unseal(KEY, longer, bound_to=b"place")


def test_a_token_too_large_is_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    token = b"\x01" + bytes(LARGEST + OVERHEAD)
    monkeypatch.setattr(sealing, "_opened", lambda _: pytest.fail("tried"))

    with pytest.raises(BadSeal):
        unseal(KEY, token, bound_to=b"")


def test_all_failures_look_the_same() -> None:
    said = set()
    for key, token, place in [
        (KEY, b"", b"place"),
        (KEY, b"\x02" + TOKEN[1:], b"place"),
        (KEY, flipped(TOKEN, 99), b"place"),
        (bytes(32), TOKEN, b"place"),
        (KEY, TOKEN, b"other"),
    ]:
        with pytest.raises(BadSeal) as caught:
            unseal(key, token, bound_to=place)
        said.add(caught.value.line())
        assert caught.value.__suppress_context__

    assert len(said) == 1


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_length_is_a_programmer_s_error(size: int) -> None:
    with pytest.raises(ValueError, match="key"):
        seal(bytes(size), b"", bound_to=b"")
    with pytest.raises(ValueError, match="key"):
        unseal(bytes(size), TOKEN, bound_to=b"place")


def test_too_much_is_a_programmer_s_error() -> None:
    with pytest.raises(ValueError, match="at most"):
        seal(KEY, bytes(LARGEST + 1), bound_to=b"")


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
