"""Memory that a process has freed stays with it, for what it asks for next.

A large model is copied on its way from one format into the next, again and again. C's library gives
each of these copies back to the system once it is freed, and the system clears every page before it
hands it out anew: of a round of 10^7 parameters that was a third of all processor time. Kept, the
same pages serve every round. Arrays of more than `MOST_AT_ONCE` bytes still go back at once, and
what is free at the end of the memory beyond `MOST_KEPT`.

See https://man7.org/linux/man-pages/man3/mallopt.3.html.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

MOST_KEPT = 2**29  # bytes


class _Option(NamedTuple):
    """A setting of glibc's `malloc`: its number, its environment variable and its value."""

    number: int
    variable: str
    value: int


def _most_at_once() -> int:
    """Bytes; before 2.35 glibc takes no more than this, and with the other settings far less."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        new = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    except (AttributeError, ValueError, OSError):  # another library
        new = False
    return 2**28 if new else 2**25


MOST_AT_ONCE = _most_at_once()

_OPTIONS = (
    _Option(-3, "MALLOC_MMAP_THRESHOLD_", MOST_AT_ONCE),
    _Option(-1, "MALLOC_TRIM_THRESHOLD_", MOST_KEPT),
    _Option(-8, "MALLOC_ARENA_MAX", 1),  # what a thread has of its own is given back anyhow
)

FREED_STAYS = {option.variable: str(option.value) for option in _OPTIONS}
"""Environment variables of a process to be started that is to keep what it frees."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees; nothing happens where C's library has no such setting.

    Nor does anything where its environment has settings of glibc's `malloc` of its own.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    tuned = "glibc.malloc." in os.environ.get("GLIBC_TUNABLES", "")
    if mallopt is None or tuned or any(option.variable in os.environ for option in _OPTIONS):
        return
    for option in _OPTIONS:
        if not mallopt(option.number, option.value):
            return  # the first one alone makes the others worth it
