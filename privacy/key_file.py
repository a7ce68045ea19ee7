"""A private key in a file: whole or not there, and readable by nobody but its owner."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedward.privacy.secret_file import write_secret
from fedward.study.errors import DataError

PrivateKey = Ed25519PrivateKey | X25519PrivateKey | EllipticCurvePrivateKey

_MOST = 4096  # bytes of a key's file; it really has 119 to 306
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def write_key(path: Path, key: PrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> None:
    """Write a key as PEM, never over another file.

    Args:
        path: The new file.
        key: The key.
        form: PKCS 8, which `read_key` reads, or another program's.

    Raises:
        DataError: Something is at that path already, or it cannot be written.
    """
    try:
        write_secret(path, key.private_bytes(Encoding.PEM, form, NoEncryption()))
    except FileExistsError:
        raise DataError(
            "there is a file already, and a private key is never written over",
            todo="choose another path, or move the old file away",
            where=str(path),
        ) from None
    except OSError as error:
        raise unusable_key(path, str(error.strerror)) from None


def read_key(path: Path) -> object:
    """The key that a file holds, of whatever kind.

    Raises:
        DataError: The file is missing, others may use it, or it is no unencrypted key in PEM.
    """
    try:
        return load_pem_private_key(read_secret(path), password=None)
    except OSError as error:
        raise unusable_key(path, str(error.strerror)) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise unusable_key(path, "it is not an unencrypted private key in PEM") from None


def unusable_key(path: Path, why: str) -> DataError:
    """The error for a file that is no such key."""
    return DataError(
        f"not usable as a private key ({why})",
        todo="give the file that this hospital's key was saved to",
        where=str(path),
    )


def read_secret(path: Path) -> bytes:
    """What `write_secret` wrote.

    Raises:
        DataError: Others than its owner may use the file, or it is none.
        OSError: It cannot be read.
    """
    # Asked of the open file, not of the path, so that it cannot be exchanged in between; and
    # without blocking, should somebody have put a pipe there.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as handle:
        mode = os.fstat(handle.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise unusable_key(path, "it is not a regular file")
        if mode & _OTHERS:
            raise DataError(
                f"others than its owner may use this private key (mode {stat.S_IMODE(mode):o})",
                todo=f"run: chmod 600 {path}, and ask whether the key is still a secret",
                where=str(path),
            )
        return handle.read(_MOST)
