"""Who a hospital is: an Ed25519 key pair that is made at the hospital and never leaves it.

Ed25519 as in RFC 8032, section 5.1. What is signed always begins with a purpose, so that a
signature that was given for one kind of message is worth nothing on another.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedward.privacy.protocol_errors import BadSignature
from fedward.study.errors import DataError

PUBLIC_SIZE = 32
SIGNATURE_SIZE = 64
_MOST = 4096  # bytes of an identity file; it really has 119
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Identity:
    """A hospital's, or the coordinator's, long-lived signing key. Its repr shows the public half.

    Attributes:
        public: 32 bytes, for the roster.
    """

    __slots__ = ("_key", "public")

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public: bytes = key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> Identity:
        """A new identity, from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    def sign(self, purpose: str, message: bytes) -> bytes:
        """Sign a message for one purpose.

        Args:
            purpose: What kind of message it is; printable ASCII, not empty.
            message: Of any length.

        Returns:
            64 bytes.

        Raises:
            ValueError: The purpose is empty or not printable ASCII.
        """
        return self._key.sign(_signed(purpose, message))

    def save(self, path: Path) -> None:
        """Write the private key as PEM (PKCS 8), readable by nobody but its owner.

        Raises:
            DataError: Something is at that path already, or it cannot be written.
        """
        pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        try:
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            raise DataError(
                "there is a file already, and an identity is never written over",
                todo="choose another path, or move the old file away",
                where=str(path),
            ) from None
        except OSError as error:
            raise _unusable(path, str(error.strerror)) from None
        with os.fdopen(file, "wb") as handle:
            handle.write(pem)
            handle.flush()
            os.fsync(handle.fileno())

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, others may read it, or it is not an Ed25519 key.
        """
        try:
            key = load_pem_private_key(_owners_bytes(path), password=None)
        except OSError as error:
            raise _unusable(path, str(error.strerror)) from None
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise _unusable(path, "it is not an unencrypted private key in PEM") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(path, "the key is of another kind than Ed25519")
        return cls(key)

    def __repr__(self) -> str:
        return f"Identity(public={self.public.hex()})"


def verify(public: bytes, purpose: str, message: bytes, signature: bytes) -> None:
    """Accept a signature by returning.

    Args:
        public: The signer's public key, 32 bytes.
        purpose: As it was signed for; printable ASCII.
        message: As it was signed.
        signature: 64 bytes.

    Raises:
        BadSignature: It is anything but this key's signature over this purpose and message.
        ValueError: The purpose is empty or not printable ASCII.
    """
    signed = _signed(purpose, message)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, signed)
    except (InvalidSignature, ValueError):
        raise BadSignature(
            f"the signature on a {purpose} is not that of the identity it names",
            todo="compare the roster and the versions of fedward at both ends",
        ) from None


def _signed(purpose: str, message: bytes) -> bytes:
    if not (purpose and purpose.isascii() and purpose.isprintable()):
        raise ValueError(f"a purpose is printable ASCII, not {purpose!r}")
    return b"fedward/1/" + purpose.encode() + b"\0" + message


def _owners_bytes(path: Path) -> bytes:
    # Asked of the open file, not of the path, so that it cannot be exchanged in between; and
    # without blocking, should somebody have put a pipe there.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
        mode = os.fstat(handle.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise _unusable(path, "it is not a regular file")
        if mode & _OTHERS:
            raise DataError(
                f"others than its owner may use this private key (mode {stat.S_IMODE(mode):o})",
                todo=f"run: chmod 600 {path}, and ask whether the key is still a secret",
                where=str(path),
            )
        return handle.read(_MOST)


def _unusable(path: Path, why: str) -> DataError:
    return DataError(
        f"not usable as an identity ({why})",
        todo="give the file that this hospital's identity was saved to",
        where=str(path),
    )
