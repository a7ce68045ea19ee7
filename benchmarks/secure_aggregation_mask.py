"""Expanding and adding one mask, beside AES-256-CTR alone over as many bytes.

The cipher alone is measured in two ways, and the quicker one is the peer: piece by piece into a
buffer that stays in cache, and in one call into a buffer as long as the mask.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from report import Row, cores, row
from secure_aggregation_turns import Limits, Side, Stopwatch, in_turns

from fedward.privacy.masks import add_masks

PIECE = 1 << 18  # bytes
PIECES, WHOLE = "the cipher alone, in pieces", "the cipher alone, in one call"


def mask_rows(words: int, limits: Limits) -> list[Row]:
    """With one thread, and with one a core."""
    return [_row(words, threads, limits) for threads in sorted({1, cores()})]


def _row(words: int, threads: int, limits: Limits) -> Row:
    vector = np.zeros(words, dtype=np.uint32)
    share = vector.nbytes // threads
    zeros = bytes(share)
    pieces, wholes = ([bytearray(n) for _ in range(threads)] for n in (PIECE, share))
    sides: dict[str, Side] = {
        "ours": lambda: _seconds(lambda: add_masks(vector, [(os.urandom(32), 1)], threads=threads)),
        PIECES: lambda: _seconds(lambda: _spread(zeros, pieces)),
        WHOLE: lambda: _seconds(lambda: _spread(zeros, wholes)),
    }
    for side in sides.values():
        side()  # touches every page once
    found = in_turns(sides, Limits(5 * limits.most, limits.seconds))
    peer = min((PIECES, WHOLE), key=lambda side: statistics.median(found[side]))
    name = f"one mask of {words:,} words, {threads} thread{'s' * (threads > 1)}"
    times = [[1e3 * s for s in found[side]] for side in ("ours", peer)]
    return row(name, *times, unit="ms", peer_name=peer)


def _seconds(work: Callable[[], object]) -> float:
    watch = Stopwatch()
    with watch.running():
        work()
    return watch.seconds


def _spread(zeros: bytes, rooms: list[bytearray]) -> None:
    """Encrypt the zeros into each room, by a thread for each."""
    if len(rooms) == 1:
        _encrypt(zeros, rooms[0])
        return
    with ThreadPoolExecutor(len(rooms)) as pool:
        list(pool.map(lambda room: _encrypt(zeros, room), rooms))


def _encrypt(zeros: bytes, room: bytearray) -> None:
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    whole, out = memoryview(zeros), memoryview(room)
    for at in range(0, len(whole), len(room)):
        piece = whole[at : at + len(room)]
        stream.update_into(piece, out[: len(piece)])
