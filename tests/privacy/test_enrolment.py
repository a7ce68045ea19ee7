"""Requests and answers: what was not signed is refused, and what was is read again unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.enrolment import (
    LARGEST_ANSWER,
    LARGEST_REQUEST,
    EnrolmentAnswer,
    EnrolmentRequest,
    claimed_coordinator,
    fingerprint,
    read_answer,
    read_request,
    same_fingerprint,
    sign_answer,
    sign_request,
)
from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadRequest, BadSignature
from fedward.privacy.roster import Roster, is_name, sign_roster
from fedward.privacy.signed_json import canonical, read_signed, write_signed
from fedward.privacy.transport import TransportKey

HOSPITAL = Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
COORDINATOR = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
TRANSPORT = TransportKey(ec.derive_private_key(7, ec.SECP384R1()))
OTHER = TransportKey(ec.derive_private_key(8, ec.SECP384R1()))
REQUEST = sign_request("Klinikum Süd", HOSPITAL, TRANSPORT)
ROSTER = Roster(2, {"Klinikum Süd": HOSPITAL.public}, {"Klinikum Süd": TRANSPORT.public})
ANSWER = EnrolmentAnswer(
    sign_roster(ROSTER, COORDINATOR),
    COORDINATOR.public,
    b"-----BEGIN CERTIFICATE-----\n",
    "fedward.example.org:9443",
)
DOCUMENT = sign_answer(ANSWER, COORDINATOR)

READERS: list[tuple[bytes, Callable[[bytes], object]]] = [
    (REQUEST, read_request),
    (DOCUMENT, lambda document: read_answer(document, COORDINATOR.public)),
]
each = pytest.mark.parametrize(("document", "read"), READERS, ids=["request", "answer"])


# --- Fingerprints ---------------------------------------------------------------------------------


def test_a_fingerprint_is_the_beginning_of_sha_256() -> None:
    # FIPS 180-2: SHA-256 of "abc" begins with ba7816bf 8f01cfea 414140de 5dae2223.
    assert fingerprint(b"abc") == "ba78-16bf-8f01-cfea-4141-40de-5dae-2223"


@pytest.mark.parametrize(
    "typed",
    [
        "ba78-16bf-8f01-cfea-4141-40de-5dae-2223",
        "BA78 16BF 8F01 CFEA 4141 40DE 5DAE 2223",
        " ba7816bf8f01cfea414140de5dae2223\n",
        "ba78:16bf:8f01:cfea:4141:40de:5dae:2223",
    ],
)
def test_a_fingerprint_may_be_typed_in_several_ways(typed: str) -> None:
    assert same_fingerprint(typed, fingerprint(b"abc"))


@given(st.binary(), st.binary())
def test_fingerprints_of_different_things_differ(one: bytes, two: bytes) -> None:
    assert same_fingerprint(fingerprint(one), fingerprint(two)) == (one == two)


@pytest.mark.parametrize("place", range(32))
def test_every_digit_counts(place: int) -> None:
    digits = fingerprint(b"abc").replace("-", "")
    wrong = digits[:place] + ("0" if digits[place] != "0" else "1") + digits[place + 1 :]

    assert not same_fingerprint(wrong, fingerprint(b"abc"))


@pytest.mark.parametrize("typed", ["", "ba78", "ba78-16bf-8f01-cfea-4141-40de-5dae", "ü", "0" * 64])
def test_less_or_more_than_a_fingerprint_is_none(typed: str) -> None:
    assert not same_fingerprint(typed, fingerprint(b"abc"))


def test_a_request_s_fingerprint_covers_all_that_is_entered() -> None:
    requests = [
        EnrolmentRequest(name, identity, transport)
        for name in ("a", "b")
        for identity in (bytes(32), bytes(range(32)))
        for transport in (TRANSPORT.public, OTHER.public)
    ]

    assert len({request.fingerprint for request in requests}) == 8


# --- Round trips ----------------------------------------------------------------------------------


def test_a_request_is_read_again() -> None:
    expected = EnrolmentRequest("Klinikum Süd", HOSPITAL.public, TRANSPORT.public)

    assert read_request(REQUEST) == expected


def test_the_same_keys_give_the_same_request() -> None:
    assert sign_request("Klinikum Süd", HOSPITAL, TRANSPORT) == REQUEST


def test_a_request_has_no_private_key() -> None:
    secret = f"{TRANSPORT.key.private_numbers().private_value:096x}"

    assert secret not in REQUEST.decode()
    assert bytes(range(32)).hex() not in REQUEST.decode()


@given(name=st.text(min_size=1, max_size=100).filter(is_name))
def test_a_request_of_any_name_is_read_again_and_fits(name: str) -> None:
    document = sign_request(name, HOSPITAL, TRANSPORT)

    assert len(document) <= LARGEST_REQUEST
    assert read_request(document).name == name


@given(
    ca=st.text(st.characters(max_codepoint=127), min_size=1),
    certificate=st.text(st.characters(max_codepoint=127)),
    port=st.integers(1, 65535),
)
def test_any_answer_is_read_again(ca: str, certificate: str, port: int) -> None:
    answer = EnrolmentAnswer(
        ANSWER.roster, COORDINATOR.public, ca.encode(), f"a.b:{port}", certificate.encode()
    )
    document = sign_answer(answer, COORDINATOR)

    assert read_answer(document, COORDINATOR.public) == answer
    assert claimed_coordinator(document) == COORDINATOR.public
    assert read_answer(document, COORDINATOR.public).read_roster() == ROSTER


@pytest.mark.parametrize(("letter", "count"), [("ü", 6_800), ('"', 16_200)])
def test_the_largest_roster_fits_into_an_answer(letter: str, count: int) -> None:
    # Names that are escaped twice: once in the roster, once more as a text in the answer.
    members = {f"{letter * 90}{i}": i.to_bytes(32, "big") for i in range(count)}
    roster = sign_roster(Roster(1, members), COORDINATOR)
    assert len(roster) > 3.9 * 2**20

    answer = EnrolmentAnswer(roster, COORDINATOR.public, b"ca", "a:1")
    assert read_answer(sign_answer(answer, COORDINATOR), COORDINATOR.public) == answer


# --- What was changed -----------------------------------------------------------------------------


@each
@given(data=st.data())
def test_no_byte_may_change(
    document: bytes, read: Callable[[bytes], object], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(document) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != document[place]))

    with pytest.raises((BadRequest, BadSignature)):
        read(document[:place] + bytes([byte]) + document[place + 1 :])


@each
def test_no_bit_may_change(document: bytes, read: Callable[[bytes], object]) -> None:
    for place in range(len(document)):
        changed = bytearray(document)
        changed[place] ^= 1 << place % 8
        with pytest.raises((BadRequest, BadSignature)):
            read(bytes(changed))


@each
def test_every_shorter_and_a_longer_document_is_refused(
    document: bytes, read: Callable[[bytes], object]
) -> None:
    for size in range(len(document)):
        with pytest.raises(BadRequest):
            read(document[:size])
    for longer in (document + b"\n", b" " + document, document * 2):
        with pytest.raises(BadRequest):
            read(longer)


@each
@pytest.mark.parametrize(
    "other",
    [b"", b"null", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"a":NaN}', b"9" * 5000],
    ids=lambda other: str(other[:9]),
)
def test_what_is_no_document_is_a_bad_request(
    document: bytes, read: Callable[[bytes], object], other: bytes
) -> None:
    del document
    with pytest.raises(BadRequest):
        read(other)


@pytest.mark.parametrize(
    ("read", "largest"), [(read_request, LARGEST_REQUEST), (claimed_coordinator, LARGEST_ANSWER)]
)
def test_a_large_document_is_not_even_parsed(
    read: Callable[[bytes], object], largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))

    with pytest.raises(BadRequest, match="larger than"):
        read(bytes(largest + 1))


def resigned(document: bytes, purpose: str, by: Identity, **changes: Any) -> bytes:  # noqa: ANN401
    """The document with other values, rightly signed."""
    body, _ = read_signed(document, largest=LARGEST_ANSWER)
    return write_signed({**body, **changes}, purpose, by)


POINT = TRANSPORT.public.hex()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": True},
        {"more": 1},
        {"name": ""},
        {"name": " a"},
        {"name": 7},
        {"name": "a\u200b"},
        {"name": "\ud800"},
        {"identity": "00" * 31},
        {"identity": HOSPITAL.public.hex().upper()},
        {"transport": "00" * 120},
        {"transport": POINT[:-2] + ("00" if POINT[-2:] != "00" else "01")},
        {"transport": None},
    ],
    ids=str,
)
def test_a_request_that_cannot_be_is_refused_though_it_is_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read_request(resigned(REQUEST, "enrolment request", HOSPITAL, **changes))


def test_nobody_can_ask_in_another_s_name() -> None:
    mallory = Identity.generate()

    with pytest.raises(BadSignature):
        read_request(resigned(REQUEST, "enrolment request", mallory))


@each
def test_a_signature_for_another_purpose_is_none(
    document: bytes, read: Callable[[bytes], object]
) -> None:
    signer = HOSPITAL if document == REQUEST else COORDINATOR
    with pytest.raises(BadSignature):
        read(resigned(document, "roster", signer))


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"more": 1},
        {"address": "example.org"},
        {"address": "https://example.org:1"},
        {"ca": ""},
        {"ca": "ü"},
        {"ca": "x" * (64 * 1024 + 1)},
        {"certificate": ""},
        {"certificate": 7},
        {"coordinator": "00" * 31},
        {"roster": "ü"},
        {"roster": "{}"},
        {"roster": {}},
    ],
    ids=lambda changes: str(changes)[:40],
)
def test_an_answer_that_cannot_be_is_refused_though_it_is_signed(changes: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        read_answer(
            resigned(DOCUMENT, "enrolment answer", COORDINATOR, **changes), COORDINATOR.public
        )


def test_an_answer_of_somebody_else_is_refused_whoever_it_names() -> None:
    mallory = Identity.generate()
    forged = resigned(DOCUMENT, "enrolment answer", mallory)
    own = resigned(DOCUMENT, "enrolment answer", mallory, coordinator=mallory.public.hex())

    for document in (forged, own):
        with pytest.raises(BadSignature):
            read_answer(document, COORDINATOR.public)
    with pytest.raises(BadSignature):  # the roster in it is still the right coordinator's
        read_answer(own, mallory.public)
    with pytest.raises(BadRequest, match="another coordinator"):
        read_answer(forged, mallory.public)


def test_an_answer_with_a_roster_that_another_signed_is_refused() -> None:
    roster = sign_roster(ROSTER, Identity.generate()).decode()

    with pytest.raises(BadSignature):
        read_answer(
            resigned(DOCUMENT, "enrolment answer", COORDINATOR, roster=roster), COORDINATOR.public
        )


def test_a_coordinator_signs_no_answer_in_another_s_name() -> None:
    with pytest.raises(ValueError, match="coordinator that it names"):
        sign_answer(ANSWER, Identity.generate())


def test_an_answer_has_one_form() -> None:
    assert canonical(json.loads(DOCUMENT)) == DOCUMENT
