"""Adding and removing masks: the key stream of a seed, word by word, modulo 2**32.

The stream is AES-256 in counter mode (NIST SP 800-38A, section 6.5) with the seed as key and a
counter that starts at zero, read as little-endian 32-bit words. A seed is used for one mask only.
Work goes in chunks that stay in cache, and a chunk gets all its masks before the next is touched.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

Words = NDArray[np.uint32]

SEED_SIZE = 32
"""Bytes of a seed."""

_CHUNK = 1 << 16  # words: zeros and stream take 256 KiB each, in the second cache
_ZEROS = bytes(4 * _CHUNK)
_BLOCK = 4  # words in one AES block: a stream can start at any of them
_WORTH_A_THREAD = 1 << 17  # words


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
    _check(vector, seeds, threads)
    wanted = threads or _cores()
    slices = _slices(vector.size, min(wanted, max(1, vector.size // _WORTH_A_THREAD)))
    if len(slices) == 1:
        _mask(vector, 0, seeds)
        return
    with ThreadPoolExecutor(len(slices)) as pool:
        # A list, so that an error in a thread is raised here.
        list(pool.map(lambda part: _mask(vector[part], part.start, seeds), slices))


def _mask(part: Words, start: int, seeds: Sequence[tuple[bytes, int]]) -> None:
    """Mask a part whose first word is word `start` of the vector, a multiple of `_BLOCK`."""
    streams = [(_stream(seed, start), np.add if sign > 0 else np.subtract) for seed, sign in seeds]
    room = bytearray(4 * min(_CHUNK, part.size))
    words = np.frombuffer(room, dtype="<u4")
    for at in range(0, part.size, _CHUNK):
        chunk = part[at : at + _CHUNK]
        mask = words[: chunk.size]
        zeros, out = memoryview(_ZEROS)[: mask.nbytes], memoryview(room)[: mask.nbytes]
        for stream, operation in streams:
            stream.update_into(zeros, out)
            operation(chunk, mask, out=chunk)


def _stream(seed: bytes, start: int) -> CipherContext:
    counter = (start // _BLOCK).to_bytes(16, "big")
    return Cipher(AES256(seed), CTR(counter)).encryptor()


def _slices(size: int, count: int) -> list[slice]:
    step = _BLOCK * max(1, -(-size // (_BLOCK * count)))
    return [slice(start, min(start + step, size)) for start in range(0, size, step)] or [slice(0)]


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check(vector: Words, seeds: Sequence[tuple[bytes, int]], threads: int | None) -> None:
    if vector.dtype != np.uint32 or vector.ndim != 1:
        raise ValueError(f"a vector of uint32 is wanted, not {vector.dtype} {vector.shape}")
    if not (vector.flags.c_contiguous and vector.flags.writeable):
        raise ValueError("the vector must be contiguous and writable")
    if any(len(seed) != SEED_SIZE or sign not in (1, -1) for seed, sign in seeds):
        raise ValueError(f"a mask is wanted by a seed of {SEED_SIZE} bytes and the sign 1 or -1")
    if threads is not None and threads < 1:
        raise ValueError(f"at least one thread is wanted, not {threads}")
