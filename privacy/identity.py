"""Who a hospital is: an Ed25519 key pair that is made at the hospital and never leaves it.

Ed25519 as in RFC 8032, section 5.1. What is signed always begins with a purpose, so that a
signature that was given for one kind of message is worth nothing on another.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from fedward.privacy.key_file import read_key, unusable_key, write_key
from fedward.privacy.protocol_errors import BadSignature

PUBLIC_SIZE = 32
SIGNATURE_SIZE = 64


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
        write_key(path, self._key)

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, others may read it, or it is not an Ed25519 key.
        """
        key = read_key(path)
        if not isinstance(key, Ed25519PrivateKey):
            raise unusable_key(path, "the key is of another kind than Ed25519")
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
