"""What the service and its reading process say to each other: a head in JSON, and bytes.

A frame is the head's length (4 bytes, little-endian), the head, and the bytes whose lengths the
head tells under `sizes`. Nothing in it is code: a reader that a hostile file has taken over can
answer wrongly, and no more.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

LENGTH = struct.Struct("<I")
LARGEST_HEAD = 16 << 20  # bytes
LARGEST_BODY = 1 << 30


def frame(head: dict[str, Any], bodies: Sequence[bytes] = ()) -> bytes:
    """One frame."""
    text = json.dumps({**head, "sizes": [len(body) for body in bodies]}).encode()
    return b"".join([LENGTH.pack(len(text)), text, *bodies])


def head_length(data: bytes) -> int:
    """How long the head is.

    Args:
        data: The first 4 bytes of a frame.

    Raises:
        ValueError: Longer than any head is.
    """
    (length,) = LENGTH.unpack(data)
    if length > LARGEST_HEAD:
        raise ValueError("a head that is too long")
    return int(length)


def head_of(data: bytes) -> dict[str, Any]:
    """A head, whose `sizes` are sizes.

    Raises:
        ValueError: It is none.
    """
    try:
        head = json.loads(data)
    except RecursionError:
        raise ValueError("a head that is too deep") from None
    sizes = head.get("sizes") if isinstance(head, dict) else None
    if not isinstance(sizes, list) or not all(type(s) is int and s >= 0 for s in sizes):
        raise ValueError("a head without sizes")
    if sum(sizes) > LARGEST_BODY:
        raise ValueError("bodies that are too long")
    return dict(head)
