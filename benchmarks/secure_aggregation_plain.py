"""Float32 averaging without any protection, as plainly as it can be done."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from secure_aggregation_turns import Stopwatch


def client_seconds(update: NDArray[np.float32]) -> float:
    """A hospital's round: the vector as bytes."""
    watch = Stopwatch()
    with watch.running():
        update.tobytes()
    return watch.seconds


def aggregator_seconds(vectors: Iterable[bytes], size: int) -> float:
    """The aggregator's round: vectors added up as they come, then the mean."""
    watch = Stopwatch()
    with watch.running():
        mean(vectors, size)
    return watch.seconds


def mean(vectors: Iterable[bytes], size: int) -> NDArray[np.float32]:
    """Mean of vectors that come as bytes."""
    total, count = np.zeros(size, dtype=np.float32), 0
    for vector in vectors:
        total += np.frombuffer(vector, dtype=np.float32)
        del vector
        count += 1
    total /= count
    return total
