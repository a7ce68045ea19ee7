"""A signed document: JSON in one canonical form, of which one key is the signature of the rest.

Canonical means sorted keys, no spaces, ASCII. A body and a signature then have exactly one document
and one digest: `{"name":"north","signature":"<hex>"}`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from fedward.privacy.identity import SIGNATURE_SIZE, Identity

_SIGNATURE = "signature"


def canonical(value: object) -> bytes:
    """The one way in which a JSON value is written and signed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_signed(body: Mapping[str, object], purpose: str, signer: Identity) -> bytes:
    """The document of a body, signed for one purpose.

    Args:
        body: JSON values, without the key `signature`.
        purpose: See `Identity.sign`.
        signer: Whose signature it gets.
    """
    signature = signer.sign(purpose, canonical(body)).hex()
    return canonical({**body, _SIGNATURE: signature})


def read_signed(document: bytes, *, largest: int) -> tuple[dict[str, object], bytes]:
    """Body and signature of a document; whether the signature is right is not looked at.

    Args:
        document: What `write_signed` gave, or anybody else.
        largest: Bytes; a larger document is not even parsed.

    Returns:
        The body, whose canonical form is what must have been signed, and 64 bytes.

    Raises:
        ValueError: It is too large, no JSON object, not canonical, or without a signature.
    """
    if len(document) > largest:
        raise ValueError(f"it is larger than {_size(largest)}")
    try:
        value = json.loads(document)
        again = canonical(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    if again != document:
        raise ValueError("it is not in the canonical form")
    return value, unhex(value.pop(_SIGNATURE, None), SIGNATURE_SIZE)


def unhex(text: object, size: int) -> bytes:
    """So many bytes from their canonical text, lower-case hexadecimal digits.

    Raises:
        ValueError: It is anything else.
    """
    if not isinstance(text, str) or len(text) != 2 * size:
        raise ValueError(f"{size} bytes in hexadecimal are wanted")
    value = bytes.fromhex(text)
    if value.hex() != text:
        raise ValueError("hexadecimal digits are written 0-9a-f")
    return value


def _size(largest: int) -> str:
    return f"{largest >> 20} MiB" if largest >= 1 << 20 else f"{largest >> 10} KiB"
