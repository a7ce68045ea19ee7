"""Adding and removing masks: the key stream of a seed, word by word, modulo 2**32.

A mask is its seed's key stream, read as little-endian 32-bit words; a seed is for one mask only.
Work goes in chunks that stay in cache, and a chunk gets all its masks before the next is touched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.key_stream import BLOCK_SIZE, MOST_AT_ONCE, SEED_SIZE, KeyStream
from fedward.privacy.parts import in_parts

Words = NDArray[np.uint32]

_CHUNK = MOST_AT_ONCE // 4  # words
_BLOCK = BLOCK_SIZE // 4  # words: a stream can start at any of its blocks


def add_mask(vector: Words, seed: bytes, *, sign: int) -> None:
    """Add the mask of one seed to a vector or subtract it, in place.

    Args:
        vector: Shape (n,), uint32, contiguous; any n.
        seed: 32 bytes, for this one mask.
        sign: +1 to add, -1 to subtract.

    Raises:
        ValueError: The vector, the seed or the sign is none of these; the vector is unchanged.
    """
    add_masks(vector, [(seed, sign)], threads=1)


def add_masks(
    vector: Words, seeds: Sequence[tuple[bytes, int]], *, threads: int | None = None
) -> None:
    """Add or subtract the masks of many seeds, in place; the same for any number of threads.

    Args:
        vector: Shape (n,), uint32, contiguous; any n. Nobody else may use it meanwhile.
        seeds: Each 32 bytes, with +1 to add its mask or -1 to subtract it.
        threads: At least 1; None for one a core. A short vector gets fewer.

    Raises:
        ValueError: An argument is none of these; the vector is unchanged.
    """
    _check(vector, seeds)
    in_parts(
        lambda part: _mask(vector[part], part.start, seeds),
        vector.size,
        step=_BLOCK,
        threads=threads,
    )


def _mask(part: Words, start: int, seeds: Sequence[tuple[bytes, int]]) -> None:
    """Mask a part whose first word is word `start` of the vector, a multiple of `_BLOCK`."""
    streams = [
        (KeyStream(seed, block=start // _BLOCK), np.add if sign > 0 else np.subtract)
        for seed, sign in seeds
    ]
    room = memoryview(bytearray(4 * min(_CHUNK, part.size)))
    words = np.frombuffer(room, dtype="<u4")
    for at in range(0, part.size, _CHUNK):
        chunk = part[at : at + _CHUNK]
        mask, here = words[: chunk.size], room[: 4 * chunk.size]
        for stream, operation in streams:
            stream.read_into(here)
            operation(chunk, mask, out=chunk)


def _check(vector: Words, seeds: Sequence[tuple[bytes, int]]) -> None:
    if vector.dtype != np.uint32 or vector.ndim != 1:
        raise ValueError(f"a vector of uint32 is wanted, not {vector.dtype} {vector.shape}")
    if not (vector.flags.c_contiguous and vector.flags.writeable):
        raise ValueError("the vector must be contiguous and writable")
    if any(len(seed) != SEED_SIZE or sign not in (1, -1) for seed, sign in seeds):
        raise ValueError(f"a mask is wanted by a seed of {SEED_SIZE} bytes and the sign 1 or -1")
