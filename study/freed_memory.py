"""Memory that a process has freed stays with it, for what it asks for next.

A large model is copied on its way from one format into the next, again and again. C's library gives
each of these copies back to the system once it is freed, and the system clears every page before it
hands it out anew: of a round of 10^7 parameters that was a third of all processor time. Kept, the
same pages serve every round. What is larger than `MOST_AT_ONCE`, and whatever is free at the end of
the memory beyond `MOST_KEPT`, still goes back.

See https://man7.org/linux/man-pages/man3/mallopt.3.html.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

MOST_AT_ONCE = 2**28  # bytes
MOST_KEPT = 2**29  # bytes


class _Option(NamedTuple):
    """A setting of glibc's `malloc`: its number, its environment variable and its value."""

    number: int
    variable: str
    value: int


_OPTIONS = (
    _Option(-1, "MALLOC_TRIM_THRESHOLD_", MOST_KEPT),
    _Option(-3, "MALLOC_MMAP_THRESHOLD_", MOST_AT_ONCE),
    _Option(-8, "MALLOC_ARENA_MAX", 1),  # memory of a thread of its own is given back anyhow
)

FREED_STAYS = {option.variable: str(option.value) for option in _OPTIONS}
"""Environment variables of a process to be started that is to keep what it frees."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees; nothing happens where C's library has no such setting.

    What its environment says of it already stays as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option in _OPTIONS:
        if option.variable not in os.environ:
            mallopt(option.number, option.value)
