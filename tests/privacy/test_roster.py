"""The roster: what the coordinator did not sign is no roster."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.identity import Identity
from fedward.privacy.protocol_errors import BadRequest, BadSignature
from fedward.privacy.roster import Roster, is_name, read_roster, sign_roster
from fedward.privacy.transport import TransportKey

COORDINATOR = Identity(Ed25519PrivateKey.from_private_bytes(bytes(32)))
ROSTER = Roster(3, {"b": bytes(range(32)), "Klinikum Süd": bytes(range(1, 33))})
DOCUMENT = sign_roster(ROSTER, COORDINATOR)


def test_the_document_is_canonical_json() -> None:
    head = (
        '{"members":{"Klinikum S\\u00fcd":"' + ROSTER.members["Klinikum Süd"].hex() + '","b":"'
        "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" + '"},'
    )
    body = head.encode() + b'"version":3}'
    signature = COORDINATOR.sign("roster", body).hex().encode()

    expected = head.encode() + b'"signature":"' + signature + b'","version":3}'
    assert expected == DOCUMENT


def test_a_round_trip() -> None:
    assert read_roster(DOCUMENT, COORDINATOR.public) == ROSTER


@given(
    version=st.integers(1, 2**63 - 1),
    members=st.dictionaries(
        st.text(max_size=8).filter(is_name), st.binary(min_size=32, max_size=32)
    ),
)
def test_a_round_trip_of_any_roster(version: int, members: dict[str, bytes]) -> None:
    if len(set(members.values())) < len(members):
        return
    roster = Roster(version, members)

    assert read_roster(sign_roster(roster, COORDINATOR), COORDINATOR.public) == roster


def test_the_order_of_members_does_not_matter() -> None:
    turned = Roster(3, {name: ROSTER.members[name] for name in ("Klinikum Süd", "b")})

    assert sign_roster(turned, COORDINATOR) == DOCUMENT


def test_another_coordinator_signed_nothing() -> None:
    with pytest.raises(BadSignature):
        read_roster(DOCUMENT, Identity.generate().public)


def test_a_signature_for_another_purpose_is_none() -> None:
    value = json.loads(DOCUMENT)
    body = canonical({k: v for k, v in value.items() if k != "signature"})
    value["signature"] = COORDINATOR.sign("advert", body).hex()

    with pytest.raises(BadSignature):
        read_roster(canonical(value), COORDINATOR.public)


@pytest.mark.parametrize("place", range(len(DOCUMENT)))
def test_no_byte_may_change(place: int) -> None:
    for bit in range(8):
        changed = bytearray(DOCUMENT)
        changed[place] ^= 1 << bit
        with pytest.raises((BadRequest, BadSignature)):
            read_roster(bytes(changed), COORDINATOR.public)


def test_every_shorter_and_a_longer_document_is_refused() -> None:
    for size in range(len(DOCUMENT)):
        with pytest.raises(BadRequest):
            read_roster(DOCUMENT[:size], COORDINATOR.public)
    for longer in (DOCUMENT + b"\n", b" " + DOCUMENT, DOCUMENT + b"x"):
        with pytest.raises(BadRequest):
            read_roster(longer, COORDINATOR.public)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 4},
        {"members": {"b": bytes(range(32)).hex()}},
        {"members": {**json.loads(DOCUMENT)["members"], "mallory": "07" * 32}},
        {"members": {}},
        {"signature": "00" * 64},
    ],
    ids=["version", "one fewer", "one more", "nobody", "signature"],
)
def test_what_the_coordinator_did_not_sign_is_a_bad_signature(change: dict[str, object]) -> None:
    with pytest.raises(BadSignature):
        read_roster(canonical({**json.loads(DOCUMENT), **change}), COORDINATOR.public)


KEY = "07" * 32


@pytest.mark.parametrize(
    "change",
    [
        {"version": 0},
        {"version": -1},
        {"version": 2**63},
        {"version": True},
        {"version": 3.0},
        {"version": "3"},
        {"version": None},
        {"members": []},
        {"members": {"a": 7}},
        {"members": {"a": KEY[:-2]}},
        {"members": {"a": KEY + "07"}},
        {"members": {"a": KEY[:-1] + "g"}},
        {"members": {"a": KEY[:-2] + "0A"}},
        {"members": {"a": "\u0660" * 64}},
        {"members": {"a": KEY, "b": KEY}},
        {"members": {"": KEY}},
        {"members": {"a\n": KEY}},
        {"members": {" a": KEY}},
        {"members": {"a" * 101: KEY}},
        {"members": {"a\u200b": KEY}},
        {"members": {"u\u0308": KEY}},
        {"members": {"\ud800": KEY}},
        {"signature": "00" * 63},
        {"signature": 5},
        {"more": 1},
    ],
    ids=str,
)
def test_a_roster_that_cannot_be_is_a_bad_request(change: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        read_roster(*signed({**json.loads(DOCUMENT), **change}, "signature" in change))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b" " * ((4 << 20) + 1),
        b'{"version":1,' + DOCUMENT[1:],
        json.dumps(json.loads(DOCUMENT)).encode(),
    ],
    ids=lambda document: str(document[:12]),
)
def test_what_is_no_document_is_a_bad_request(document: bytes) -> None:
    with pytest.raises(BadRequest):
        read_roster(document, COORDINATOR.public)


def test_a_large_document_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda _: pytest.fail("parsed"))

    with pytest.raises(BadRequest, match="4 MiB"):
        read_roster(bytes((4 << 20) + 1), COORDINATOR.public)


@pytest.mark.parametrize(
    ("version", "members"),
    [
        (0, {}),
        (True, {}),
        (1, {"": bytes(32)}),
        (1, {"a": bytes(31)}),
        (1, {"a": bytes(32), "b": bytes(32)}),
    ],
)
def test_the_coordinator_cannot_make_such_a_roster(version: int, members: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match=r"roster|name|key"):
        Roster(version, members)


def test_a_roster_too_large_to_read_is_not_signed() -> None:
    many = Roster(1, {f"h{i}": i.to_bytes(32, "big") for i in range(60_000)})

    with pytest.raises(ValueError, match="4 MiB"):
        sign_roster(many, COORDINATOR)


def test_a_roster_keeps_its_own_members() -> None:
    members = {"a": bytes(32)}
    roster = Roster(1, members)
    members["mallory"] = bytes(32)

    assert list(roster.members) == ["a"]


# --- Transport keys -------------------------------------------------------------------------------

TRANSPORTS = [TransportKey(ec.derive_private_key(7 + i, ec.SECP384R1())).public for i in range(2)]
CONNECTED = Roster(4, ROSTER.members, {"b": TRANSPORTS[0]})
CONNECTED_DOCUMENT = sign_roster(CONNECTED, COORDINATOR)


def test_a_roster_without_transport_keys_has_no_such_key_in_its_document() -> None:
    assert b"transports" not in DOCUMENT
    assert sign_roster(Roster(3, ROSTER.members, {}), COORDINATOR) == DOCUMENT


@pytest.mark.parametrize("names", [["b"], ["Klinikum Süd"], ["b", "Klinikum Süd"]])
def test_a_round_trip_with_transport_keys(names: list[str]) -> None:
    roster = Roster(4, ROSTER.members, dict(zip(names, TRANSPORTS, strict=False)))

    assert read_roster(sign_roster(roster, COORDINATOR), COORDINATOR.public) == roster


def test_no_byte_may_change_with_transport_keys() -> None:
    for place in range(len(CONNECTED_DOCUMENT)):
        changed = bytearray(CONNECTED_DOCUMENT)
        changed[place] ^= 1 << place % 8
        with pytest.raises((BadRequest, BadSignature)):
            read_roster(bytes(changed), COORDINATOR.public)


@pytest.mark.parametrize(
    "transports",
    [
        {},
        [],
        None,
        {"mallory": TRANSPORTS[0].hex()},
        {"b": TRANSPORTS[0].hex()[:-2]},
        {"b": TRANSPORTS[0].hex().upper()},
        {"b": "00" * 120},
        {"b": TRANSPORTS[0].hex(), "Klinikum Süd": TRANSPORTS[0].hex()},
    ],
    ids=lambda transports: str(transports)[:30],
)
def test_transport_keys_that_cannot_be_are_a_bad_request(transports: object) -> None:
    value = {**json.loads(CONNECTED_DOCUMENT), "transports": transports}

    with pytest.raises(BadRequest):
        read_roster(*signed(value, keep=False))


def test_a_transport_key_cannot_be_taken_out_or_given_to_another() -> None:
    value = json.loads(CONNECTED_DOCUMENT)
    other = {"transports": {"Klinikum Süd": TRANSPORTS[0].hex()}}

    for changed in ({k: v for k, v in value.items() if k != "transports"}, value | other):
        with pytest.raises(BadSignature):
            read_roster(canonical(changed), COORDINATOR.public)


def test_a_roster_keeps_its_own_transport_keys() -> None:
    transports = {"b": TRANSPORTS[0]}
    roster = Roster(1, ROSTER.members, transports)
    transports.clear()

    assert roster.transports == {"b": TRANSPORTS[0]}


def canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def signed(value: dict[str, object], keep: bool) -> tuple[bytes, bytes]:
    """The document with a right signature, whatever is in it, and who signed it."""
    body = canonical({k: v for k, v in value.items() if k != "signature"})
    signature = value["signature"] if keep else COORDINATOR.sign("roster", body).hex()
    return canonical({**value, "signature": signature}), COORDINATOR.public
