"""Sealing a few bytes for one reader.

ChaCha20-Poly1305 (RFC 8439, section 2.8). A token is a version byte, a random nonce of 12 bytes
and the ciphertext with its tag of 16. The version and what the token is bound to are authenticated.
"""

from __future__ import annotations

import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedward.privacy.protocol_errors import BadSeal

_VERSION = b"\x01"
_KEY_SIZE = 32
_NONCE_SIZE = 12
_TAG_SIZE = 16
_LARGEST = 64 << 10  # bytes of plaintext; a share has 35

OVERHEAD = len(_VERSION) + _NONCE_SIZE + _TAG_SIZE
"""Bytes that a token is longer than what is in it."""


def seal(key: bytes, plaintext: bytes, *, bound_to: bytes) -> bytes:
    """Encrypt and authenticate.

    Args:
        key: 32 bytes, from the key schedule. The nonce is random: far below 2**32 tokens a key.
        plaintext: At most 64 KiB.
        bound_to: What the token belongs to; not in the token, and wanted again to open it.

    Returns:
        A token, `OVERHEAD` bytes longer than the plaintext.

    Raises:
        ValueError: The key has another length, or the plaintext is too large.
    """
    if len(plaintext) > _LARGEST:
        raise ValueError(f"at most {_LARGEST} bytes are sealed, not {len(plaintext)}")
    nonce = os.urandom(_NONCE_SIZE)
    return _VERSION + nonce + _cipher(key).encrypt(nonce, plaintext, _VERSION + bound_to)


def unseal(key: bytes, token: bytes, *, bound_to: bytes) -> bytes:
    """What was sealed.

    Args:
        key: As it was sealed with, 32 bytes.
        token: From `seal`.
        bound_to: As it was sealed with.

    Raises:
        BadSeal: Anything about the token is wrong; it does not say what.
        ValueError: The key has another length.
    """
    cipher = _cipher(key)
    whole = OVERHEAD <= len(token) <= OVERHEAD + _LARGEST and token.startswith(_VERSION)
    try:
        return cipher.decrypt(*_opened(token), _VERSION + bound_to) if whole else _refuse()
    except InvalidTag:
        return _refuse()


def _opened(token: bytes) -> tuple[bytes, bytes]:
    start = len(_VERSION) + _NONCE_SIZE
    return token[len(_VERSION) : start], token[start:]


def _cipher(key: bytes) -> ChaCha20Poly1305:
    if len(key) != _KEY_SIZE:
        raise ValueError(f"a key has {_KEY_SIZE} bytes, not {len(key)}")
    return ChaCha20Poly1305(key)


def _refuse() -> bytes:
    raise BadSeal("a sealed share does not open", todo="the round must be tried again") from None
