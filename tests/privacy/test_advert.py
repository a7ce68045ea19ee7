"""Adverts: RFC 7748's answers, and nothing but the member's own advert for this run is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy import advert as advert_module
from fedward.privacy.advert import Advert, RunKey, check_advert, make_advert, pack, unpack
from fedward.privacy.framing import framed
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadAdvert
from fedward.privacy.roster import Roster

# RFC 7748, section 6.1.
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"

# The points of order 1, 2, 4 and 8 of the curve and its twist, and their other encodings.
SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
    "00" * 31 + "80",
]

IDENTITY = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = Identity(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
ROSTER = Roster(1, {"St. Mary": IDENTITY.public, "b": OTHER.public})
RUN_KEY = RunKey(X25519PrivateKey.from_private_bytes(bytes.fromhex(ALICE)))
ADVERT = make_advert(IDENTITY, RUN_KEY, study="ab12", run="run-1", hospital="St. Mary")


def check(advert: Advert, *, study: str = "ab12", run: str = "run-1") -> None:
    check_advert(advert, ROSTER, study=study, run=run)


def run_key(secret: str) -> RunKey:
    return RunKey(X25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))


def test_the_answers_of_rfc_7748() -> None:
    alice, bob = run_key(ALICE), run_key(BOB)

    assert (alice.public.hex(), bob.public.hex()) == (ALICE_PUBLIC, BOB_PUBLIC)
    assert alice.agree(bob.public).hex() == bob.agree(alice.public).hex() == SHARED


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_point_that_gives_a_known_secret_is_refused(point: str) -> None:
    with pytest.raises(BadAdvert):
        RUN_KEY.agree(bytes.fromhex(point))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_point_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(BadAdvert):
        RUN_KEY.agree((ADVERT.public_key * 2)[:size])


def test_run_keys_are_new_each_time_and_show_no_secret() -> None:
    assert len({RunKey.generate().public for _ in range(5)}) == 5
    assert ALICE not in repr(RUN_KEY)
    assert ALICE_PUBLIC in repr(RUN_KEY)


# --- Checking -------------------------------------------------------------------------------------


def test_a_member_s_advert_is_taken() -> None:
    check(ADVERT)


def test_what_is_signed() -> None:
    message = framed("ab12", "run-1", "St. Mary", bytes.fromhex(ALICE_PUBLIC))

    assert ADVERT.signature == IDENTITY.sign("advert", message)


@pytest.mark.parametrize("terms", [{"study": "ab13"}, {"run": "run-2"}, {"study": ""}, {"run": ""}])
def test_an_advert_of_another_study_or_run_is_refused(terms: dict[str, str]) -> None:
    with pytest.raises(BadAdvert):
        check(ADVERT, **terms)


CHANGES = [
    {"study": "ab13"},
    {"run": "run-2"},
    {"hospital": "b"},
    {"hospital": "nobody"},
    {"hospital": ""},
    {"public_key": bytes.fromhex(BOB_PUBLIC)},
    {"public_key": ADVERT.public_key[:-1]},
    {"public_key": ADVERT.public_key + b"\0"},
    {"public_key": b""},
    {"signature": bytes(64)},
    {"signature": ADVERT.signature[:-1]},
    {"signature": ADVERT.signature + b"\0"},
    {"signature": b""},
    {"study": "ab12" + "x" * 125},
    {"run": "\ud800"},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_changed_advert_is_refused_even_where_the_change_is_asked_for(
    change: dict[str, str],
) -> None:
    changed = replace(ADVERT, **change)  # type: ignore[arg-type]

    with pytest.raises(BadAdvert):
        check(changed, study=changed.study, run=changed.run)


def test_another_member_cannot_sign_for_a_hospital() -> None:
    forged = make_advert(OTHER, RUN_KEY, study="ab12", run="run-1", hospital="St. Mary")

    with pytest.raises(BadAdvert):
        check(forged)


def test_a_stranger_is_refused() -> None:
    stranger = make_advert(Identity.generate(), RUN_KEY, study="ab12", run="run-1", hospital="c")

    with pytest.raises(BadAdvert):
        check(stranger)


def test_bytes_cannot_move_between_fields() -> None:
    moved = replace(ADVERT, study="ab12r", run="un-1")

    with pytest.raises(BadAdvert):
        check(moved, study="ab12r", run="un-1")


def test_no_bit_may_change() -> None:
    packed = pack(ADVERT)

    for bit in range(8 * len(packed)):
        changed = bytearray(packed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadAdvert):
            check(unpack(bytes(changed)))


@pytest.mark.parametrize("terms", [{"study": ""}, {"run": "a\n"}, {"hospital": ""}])
def test_an_advert_that_nobody_would_take_is_not_made(terms: dict[str, str]) -> None:
    given = {"study": "ab12", "run": "run-1", "hospital": "a", **terms}

    with pytest.raises(ValueError, match=r"named|names"):
        make_advert(IDENTITY, RUN_KEY, **given)


# --- Packing --------------------------------------------------------------------------------------


def test_a_round_trip() -> None:
    assert unpack(pack(ADVERT)) == ADVERT


def test_the_longest_names_fit() -> None:
    longest = replace(ADVERT, study="\U0001f600" * 128, run="\U0001f600" * 128, hospital="長" * 100)

    assert unpack(pack(longest)) == longest


@pytest.mark.parametrize("change", [*CHANGES[4:5], *CHANGES[6:9], *CHANGES[10:]], ids=str)
def test_a_malformed_advert_is_not_packed(change: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"names|named|length"):
        pack(replace(ADVERT, **change))  # type: ignore[arg-type]


def test_every_shorter_and_a_longer_packing_is_refused() -> None:
    packed = pack(ADVERT)

    for size in range(len(packed)):
        with pytest.raises(BadAdvert):
            unpack(packed[:size])
    for longer in (packed + b"\0", packed + framed(b""), packed * 2, packed + bytes(10_000_000)):
        with pytest.raises(BadAdvert):
            unpack(longer)


def test_a_packing_too_large_is_not_even_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advert_module, "unframed", lambda _: pytest.fail("taken apart"))

    with pytest.raises(BadAdvert):
        unpack(bytes(2049))


@given(st.lists(st.binary(max_size=70), min_size=3, max_size=7))
def test_any_fields_are_an_advert_or_refused(fields: list[bytes]) -> None:
    unpack_or_refuse(framed(*fields))


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_what_is_unpacked_is_packed_the_same(study: str, run: str, hospital: str) -> None:
    unpack_or_refuse(framed(study, run, hospital, bytes(32), bytes(64)))


def test_text_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(BadAdvert):
        unpack(framed(b"\xff", b"r", b"h", bytes(32), bytes(64)))


def unpack_or_refuse(packed: bytes) -> None:
    try:
        advert = unpack(packed)
    except BadAdvert:
        return
    assert pack(advert) == packed
