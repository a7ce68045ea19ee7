"""Transport keys: on P-384, in one form, and in a file that only its owner reads."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from fedward.privacy.key_file import write_key
from fedward.privacy.transport import PUBLIC_SIZE, TransportKey, is_transport, transport_pem
from fedward.study.errors import DataError

KEY = TransportKey.generate()


def test_a_public_key_has_the_size_that_rosters_expect() -> None:
    assert len(KEY.public) == PUBLIC_SIZE
    assert is_transport(KEY.public)


def test_keys_are_new_each_time() -> None:
    assert len({TransportKey.generate().public for _ in range(3)}) == 3


def test_a_saved_key_is_read_again_and_its_owner_s_alone(tmp_path: Path) -> None:
    KEY.save(tmp_path / "transport.pem")

    assert TransportKey.load(tmp_path / "transport.pem").public == KEY.public
    assert stat.S_IMODE((tmp_path / "transport.pem").stat().st_mode) == 0o600


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    KEY.save(tmp_path / "transport.pem")

    with pytest.raises(DataError, match="never written over"):
        TransportKey.generate().save(tmp_path / "transport.pem")


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "not on P-384"),
        (Ed25519PrivateKey.generate(), "EC"),
    ],
    ids=["P-256", "Ed25519"],
)
def test_a_key_of_another_kind_is_refused(
    key: ec.EllipticCurvePrivateKey | Ed25519PrivateKey, why: str, tmp_path: Path
) -> None:
    write_key(tmp_path / "key.pem", key)

    with pytest.raises(DataError, match=why):
        TransportKey.load(tmp_path / "key.pem")


def test_a_key_on_another_curve_cannot_be_made_into_one() -> None:
    with pytest.raises(ValueError, match="P-384"):
        TransportKey(ec.generate_private_key(ec.SECP521R1()))


def test_no_bit_of_the_header_and_no_size_may_change() -> None:
    for bit in range(8 * 24):  # the header and the byte that says that the point is in full
        changed = bytearray(KEY.public)
        changed[bit // 8] ^= 1 << bit % 8
        assert not is_transport(bytes(changed)), bit
    for other in (b"", KEY.public[:-1], KEY.public + b"\0"):
        assert not is_transport(other)


def test_a_point_that_is_not_on_the_curve_is_no_key() -> None:
    assert not is_transport(KEY.public[:-1] + bytes([KEY.public[-1] ^ 1]))


def test_other_forms_of_the_same_key_are_not_its_form() -> None:
    public = KEY.key.public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    point = public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    assert not is_transport(pem)
    assert not is_transport(point)
    smaller = ec.generate_private_key(ec.SECP256R1()).public_key()
    assert not is_transport(smaller.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_pem_is_the_same_key() -> None:
    assert load_pem_public_key(transport_pem(KEY.public)) == KEY.key.public_key()
    with pytest.raises(ValueError, match="P-384"):
        transport_pem(b"no key")


def test_no_secret_is_shown() -> None:
    secret = f"{KEY.key.private_numbers().private_value:x}"

    assert secret not in repr(KEY) + str(KEY)
