"""Float32 averaging without any protection, as plainly as it can be done."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from secure_aggregation_turns import Stopwatch, Time


def client_time(update: NDArray[np.float32]) -> Time:
    """A hospital's round: the vector as bytes."""
    watch = Stopwatch()
    with watch.running():
        update.tobytes()
    return watch.time


def aggregator_time(vectors: Iterable[bytes], size: int) -> Time:
    """The aggregator's round: vectors added up as they come, then the mean."""
    watch = Stopwatch()
    with watch.running():
        mean(vectors, size)
    return watch.time


def mean(vectors: Iterable[bytes], size: int) -> NDArray[np.float32]:
    """Mean of vectors that come as bytes."""
    total, count = np.zeros(size, dtype=np.float32), 0
    for vector in vectors:
        total += np.frombuffer(vector, dtype=np.float32)
        del vector
        count += 1
    total /= count
    return total
