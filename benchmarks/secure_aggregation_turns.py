"""Timing several sides in turns, by the clock and by the processor; the vectors they work on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from report import Row, row

DISTINCT = 4  # masked vectors that stand for those of all hospitals, in turn


@dataclass(frozen=True)
class Time:
    """Seconds by the clock, and seconds of processor time of all threads together."""

    wall: float
    processor: float


Side = Callable[[], Time]


class Stopwatch:
    """Time spent inside its `running` blocks; what is prepared between them does not count."""

    def __init__(self) -> None:
        self.time = Time(0, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, processor = time.perf_counter(), time.process_time()
        yield
        wall, processor = time.perf_counter() - wall, time.process_time() - processor
        self.time = Time(self.time.wall + wall, self.time.processor + processor)


def timed(work: Callable[[], object]) -> Time:
    """The time that all of the work takes."""
    watch = Stopwatch()
    with watch.running():
        work()
    return watch.time


@dataclass(frozen=True)
class Limits:
    """When repeats end: after `most`, or after the first that ends beyond `seconds`."""

    most: int
    seconds: float


def in_turns(sides: Mapping[str, Side], limits: Limits) -> dict[str, list[Time]]:
    """What each side measures of itself, in turns; every second time in the opposite order."""
    found: dict[str, list[Time]] = {side: [] for side in sides}
    started = time.perf_counter()
    for repeat in range(limits.most):
        for side in list(sides)[:: 1 if repeat % 2 == 0 else -1]:
            found[side].append(sides[side]())
        if time.perf_counter() - started > limits.seconds:
            break
    return found


def time_rows(
    name: str, ours: Sequence[Time], peer: Sequence[Time], *, peer_name: str
) -> list[Row]:
    """One row by the clock, one by the processor."""
    wall = [[1e3 * time.wall for time in times] for times in (ours, peer)]
    processor = [[1e3 * time.processor for time in times] for times in (ours, peer)]
    return [
        row(name, *wall, unit="ms", peer_name=peer_name),
        row(name, *processor, unit="CPU ms", peer_name=peer_name),
    ]


def normal_vector(size: int, *, seed: int = 1) -> NDArray[np.float32]:
    """What an update looks like; its norm is far above the bound, so that clipping has work."""
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


def random_words(size: int, *, seed: int = 1) -> NDArray[np.uint32]:
    """What a masked vector looks like."""
    return np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)


def few_in_turn(vectors: Sequence[bytes], count: int) -> Iterator[bytes]:
    """`count` vectors, from a few: the aggregator's time does not depend on what is in them."""
    for number in range(count):
        yield vectors[number % len(vectors)]
