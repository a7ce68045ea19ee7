"""The key by which a hospital's machine is let in: EC P-384, as Flower's node authentication wants.

It opens the connection and protects no record: what a hospital says in the protocol is signed by
its identity. The two are apart so that a machine's key can be changed without a new identity.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from fedward.privacy.key_file import read_key, unusable_key, write_key

PUBLIC_SIZE = 120  # bytes of a P-384 SubjectPublicKeyInfo whose point is not compressed


class TransportKey:
    """A machine's long-lived key for the connection. Its repr shows nothing of it.

    Attributes:
        key: The private key, for Flower's connection alone; it signs what is sent there.
        public: 120 bytes, SubjectPublicKeyInfo in DER, for the roster.
    """

    __slots__ = ("key", "public")

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        if not isinstance(key.curve, ec.SECP384R1):
            raise ValueError(f"a transport key is on P-384, not {key.curve.name}")
        self.key = key
        self.public: bytes = key.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )

    @classmethod
    def generate(cls) -> TransportKey:
        """A new key, from the operating system's randomness."""
        return cls(ec.generate_private_key(ec.SECP384R1()))

    def save(self, path: Path) -> None:
        """Write the private key as PEM (PKCS 8), readable by nobody but its owner.

        Raises:
            DataError: Something is at that path already, or it cannot be written.
        """
        write_key(path, self.key)

    def save_openssh(self, path: Path) -> None:
        """Write the private key in OpenSSH's form, the only one that a stock SuperNode reads.

        Raises:
            DataError: As for `save`.
        """
        write_key(path, self.key, PrivateFormat.OpenSSH)

    @classmethod
    def load(cls, path: Path) -> TransportKey:
        """Read what `save` wrote.

        Raises:
            DataError: The file is missing, others may read it, or it is no key on P-384.
        """
        key = read_key(path)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise unusable_key(path, "the key is of another kind than EC P-384")
        if not isinstance(key.curve, ec.SECP384R1):
            raise unusable_key(path, f"the key is on {key.curve.name}, not on P-384")
        return cls(key)

    def __repr__(self) -> str:
        return "TransportKey()"


def is_transport(public: bytes) -> bool:
    """Whether these bytes are a public transport key in its one form (P-384, point in full)."""
    if len(public) != PUBLIC_SIZE:
        return False
    try:
        key = load_der_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        return False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        return False
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == public


def transport_pem(public: bytes) -> bytes:
    """A public transport key as PEM, the form in which Flower registers a node.

    Raises:
        ValueError: It is no public transport key.
    """
    if not is_transport(public):
        raise ValueError("not a public key on P-384")
    key = load_der_public_key(public)
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
