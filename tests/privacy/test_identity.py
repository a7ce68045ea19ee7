"""Identities: RFC 8032's answers, one purpose a signature, and a file that only its owner reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from fedward.privacy.identity import Identity, verify
from fedward.privacy.protocol_errors import BadSignature
from fedward.study.errors import DataError

# RFC 8032, section 7.1: secret key, public key, message, signature.
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701c"
        "f9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0"
        "f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), RFC_8032)
def test_the_answers_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret))

    assert Identity(key).public.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature


def test_what_is_signed_is_version_purpose_zero_message(identity: Identity) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))

    assert identity.sign("advert", b"hello") == key.sign(b"fedward/1/advert\0hello")


@pytest.mark.parametrize("message", [b"", b"\0", b"x" * 1_000_000], ids=["empty", "zero", "large"])
def test_a_round_trip(identity: Identity, message: bytes) -> None:
    verify(identity.public, "advert", message, identity.sign("advert", message))


def test_identities_are_new_each_time() -> None:
    assert len({Identity.generate().public for _ in range(5)}) == 5


def test_another_purpose_another_message_and_another_key_fail(identity: Identity) -> None:
    signature = identity.sign("advert", b"message")

    for public, purpose, message in [
        (identity.public, "roster", b"message"),
        (identity.public, "advert", b"another"),
        (identity.public, "advert", b""),
        (Identity.generate().public, "advert", b"message"),
    ]:
        with pytest.raises(BadSignature):
            verify(public, purpose, message, signature)


def test_no_bit_of_a_signature_or_key_may_change(identity: Identity) -> None:
    signature = identity.sign("p", b"m")

    for bit in range(8 * 64):
        with pytest.raises(BadSignature):
            verify(identity.public, "p", b"m", flipped(signature, bit))
    for bit in range(8 * 32):
        with pytest.raises(BadSignature):
            verify(flipped(identity.public, bit), "p", b"m", signature)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 1000])
def test_a_signature_of_another_length_fails(identity: Identity, size: int) -> None:
    signature = (identity.sign("p", b"m") * 20)[:size]

    with pytest.raises(BadSignature):
        verify(identity.public, "p", b"m", signature)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_length_fails(identity: Identity, size: int) -> None:
    with pytest.raises(BadSignature):
        verify((identity.public * 2)[:size], "p", b"m", identity.sign("p", b"m"))


@pytest.mark.parametrize("purpose", ["", "a\0b", "ä", "a\n"])
def test_a_purpose_that_could_be_read_in_two_ways_is_a_programmer_s_error(
    identity: Identity, purpose: str
) -> None:
    with pytest.raises(ValueError, match="purpose"):
        identity.sign(purpose, b"")
    with pytest.raises(ValueError, match="purpose"):
        verify(identity.public, purpose, b"", bytes(64))


# --- The file -------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_a_saved_identity(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "identity.pem"
    before = os.umask(umask)
    try:
        Identity.generate().save(path)
    finally:
        os.umask(before)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_saved_identity_is_read_again(tmp_path: Path, identity: Identity) -> None:
    identity.save(tmp_path / "i.pem")
    again = Identity.load(tmp_path / "i.pem")

    assert again.public == identity.public
    assert again.sign("p", b"m") == identity.sign("p", b"m")
    assert (tmp_path / "i.pem").read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")


def test_an_identity_is_never_written_over(tmp_path: Path, identity: Identity) -> None:
    path = tmp_path / "i.pem"
    path.write_bytes(b"precious")

    with pytest.raises(DataError, match="never written over"):
        identity.save(path)
    assert path.read_bytes() == b"precious"


def test_an_identity_is_not_written_through_a_link(tmp_path: Path, identity: Identity) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DataError):
        identity.save(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_is_not_there_is_a_clear_error(tmp_path: Path, identity: Identity) -> None:
    with pytest.raises(DataError, match="No such file"):
        identity.save(tmp_path / "no" / "i.pem")
    with pytest.raises(DataError, match="No such file"):
        Identity.load(tmp_path / "i.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o777])
def test_a_file_that_others_may_use_is_refused(
    tmp_path: Path, identity: Identity, mode: int
) -> None:
    path = tmp_path / "i.pem"
    identity.save(path)
    path.chmod(mode)

    with pytest.raises(DataError, match=f"mode {mode:o}.*chmod 600"):
        Identity.load(path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_the_owner_s_alone_is_read(tmp_path: Path, identity: Identity, mode: int) -> None:
    path = tmp_path / "i.pem"
    identity.save(path)
    path.chmod(mode)

    assert Identity.load(path).public == identity.public


def test_a_pipe_or_a_folder_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)

    with pytest.raises(DataError, match="regular"):
        Identity.load(tmp_path / "pipe")
    with pytest.raises(DataError):
        Identity.load(tmp_path)


def private_pem(key: Ed25519PrivateKey | X25519PrivateKey, password: bytes | None = None) -> bytes:
    secrecy = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secrecy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a key",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        private_pem(Ed25519PrivateKey.generate())[:-30],
        private_pem(X25519PrivateKey.generate()),
        private_pem(Ed25519PrivateKey.generate(), b"password"),
    ],
    ids=["empty", "text", "pem", "cut", "x25519", "encrypted"],
)
def test_a_file_that_holds_no_identity_is_a_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "i.pem"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(DataError, match="not usable as a private key") as caught:
        Identity.load(path)
    assert caught.value.where == str(path)
    assert "PRIVATE KEY" not in caught.value.line()


def test_no_secret_is_shown(identity: Identity) -> None:
    for text in (repr(identity), str(identity), f"{identity}"):
        assert bytes(range(32)).hex() not in text
        assert identity.public.hex() in text


def flipped(value: bytes, bit: int) -> bytes:
    changed = bytearray(value)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
