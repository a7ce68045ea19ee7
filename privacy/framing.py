"""Several fields as one string of bytes that can be read in only one way.

Every field carries its length in front (4 bytes, big-endian), so that no two different lists of
fields give the same bytes. Whatever is hashed, signed or bound to a key is written like this.
"""

from __future__ import annotations

from collections.abc import Iterator

_LENGTH = 4


def framed(*fields: str | bytes) -> bytes:
    """All fields, each behind its length; text as UTF-8.

    Raises:
        ValueError: A text cannot be written as UTF-8 (a lone surrogate).
    """
    return b"".join(_framed(f.encode() if isinstance(f, str) else f) for f in fields)


def unframed(message: bytes) -> list[bytes]:
    """The fields of `framed`; `framed(*unframed(m)) == m` for every m that is accepted.

    Raises:
        ValueError: The message ends inside a field or inside a length.
    """
    return list(_fields(message))


def _framed(field: bytes) -> bytes:
    return len(field).to_bytes(_LENGTH, "big") + field


def _fields(message: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(message):
        start = at + _LENGTH
        at = start + int.from_bytes(message[at:start], "big")
        if at > len(message):
            raise ValueError("the message ends inside a field")
        yield message[start:at]
