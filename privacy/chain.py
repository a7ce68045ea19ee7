"""Rows of which each carries the hash of the one before, so that one that is changed is noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fedward.privacy.framing import framed


def chain_start(name: str) -> str:
    """What the first row of a chain follows, hexadecimal: no chain is taken for another one."""
    return hashlib.sha256(f"fedward/1/{name}".encode()).hexdigest()


def chained(before: str, row: Sequence[object]) -> str:
    """SHA-256 over the hash before and every field, as text that reads back to the same value.

    Args:
        before: The hash before, hexadecimal.
        row: Texts, numbers or None, of the very kinds that the row is read back with.
    """
    return hashlib.sha256(framed(before, *(repr(field) for field in row))).hexdigest()
