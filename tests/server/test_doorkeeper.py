"""Who may pass the public port: only the time, signed just now, by a key that was let in."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.server.doorkeeper import Doorkeeper
from tests.server.flower_hospital import public_der, signed_time, transport_key

NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
KEY, STRANGER = transport_key(), transport_key()
Headers = dict[bytes, bytes]


def signed(
    key: ec.EllipticCurvePrivateKey = KEY,
    *,
    named: ec.EllipticCurvePrivateKey = KEY,
    at: datetime = NOW,
) -> Headers:
    return signed_time(key, named=named, at=at)


@pytest.fixture
def door() -> Doorkeeper:
    return Doorkeeper([public_der(KEY)], now=lambda: NOW)


@pytest.mark.parametrize("age", [-4, 0, 299, 304])
def test_a_key_that_was_let_in_passes_and_is_told_from_others(door: Doorkeeper, age: int) -> None:
    headers = signed(at=NOW - timedelta(seconds=age))

    assert door(headers) == headers[b"flwr-public-key"]
    assert door(headers) == headers[b"flwr-public-key"]


def changed(headers: Headers, name: str, value: bytes) -> Headers:
    return {**headers, name.encode(): value}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"flwr-public-key": signed()[b"flwr-public-key"]},
        signed(STRANGER, named=STRANGER),
        signed(STRANGER),
        signed(at=NOW - timedelta(seconds=306)),
        signed(at=NOW + timedelta(seconds=6)),
        signed(at=NOW.replace(tzinfo=None)),
        changed(signed(), "flwr-timestamp", (NOW + timedelta(seconds=1)).isoformat().encode()),
        changed(signed(), "flwr-timestamp", b"today"),
        changed(signed(), "flwr-timestamp", b"\xff"),
        changed(signed(), "flwr-signature", b""),
        changed(signed(), "flwr-signature", b"not base 64"),
        changed(signed(), "flwr-signature", b64encode(b"no signature")),
    ],
)
def test_nothing_else_passes_before_or_after_it(door: Doorkeeper, headers: Headers) -> None:
    assert door(headers) is None
    assert door(signed())
    assert door(headers) is None


def test_what_was_signed_once_does_not_pass_for_ever() -> None:
    clock = [NOW]
    door = Doorkeeper([public_der(KEY)], now=lambda: clock[0])
    headers = signed()
    assert door(headers)

    clock[0] += timedelta(seconds=306)

    assert door(headers) is None


def test_what_is_no_key_lets_nobody_in_and_keeps_nobody_out() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    door = Doorkeeper([b"no key", public_der(other), public_der(KEY)], now=lambda: NOW)

    assert door(signed())
    assert door(signed(other, named=other)) is None
