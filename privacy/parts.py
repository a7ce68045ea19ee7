"""A long vector's work in parts, one for each core: NumPy and the cipher let other threads run."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_WORTH_A_THREAD = 1 << 17  # values

Found = TypeVar("Found")


def in_parts(
    work: Callable[[slice], Found], size: int, *, step: int, threads: int | None = None
) -> list[Found]:
    """Do the work of each part of a vector, each part in a thread; what they return, in order.

    Threads are made for each call: they cost less than a tenth of a millisecond, and none is left
    behind for a process that is forked later.

    Args:
        work: Called with each part, `slice(start, stop)`, once.
        size: Of the vector, >= 0; an empty one is one part.
        step: Parts begin at multiples of this many values, >= 1.
        threads: At least 1; None for one a core. A short vector gets fewer.

    Raises:
        ValueError: No thread is wanted.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"at least one thread is wanted, not {threads}")
    most = min(threads or _cores(), max(1, size // _WORTH_A_THREAD))
    first, *others = _parts(size, most, step)
    if not others:
        return [work(first)]
    with ThreadPoolExecutor(len(others)) as pool:
        waiting = [pool.submit(work, part) for part in others]
        return [work(first), *(one.result() for one in waiting)]


def _parts(size: int, most: int, step: int) -> list[slice]:
    each = step * max(1, -(-size // (step * most)))
    starts = range(0, size, each)
    return [slice(start, min(start + each, size)) for start in starts] or [slice(0, 0)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
