"""Expanding and adding one mask, beside the cipher alone over as many bytes.

AES-256-CTR alone is measured in two ways, and the quicker one is the peer: piece by piece into a
buffer that stays in cache, and in one call into a buffer as long as the mask.
"""

from __future__ import annotations

import os
import statistics
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from report import Row, cores
from secure_aggregation_turns import Limits, Side, in_turns, time_rows, timed

from fedward.privacy.masks import add_masks

PIECE = 1 << 18  # bytes
PIECES, WHOLE = "AES-CTR alone, in pieces", "AES-CTR alone, in one call"


def mask_rows(words: int, limits: Limits) -> list[Row]:
    """With one thread, and with one a core."""
    return [row for threads in sorted({1, cores()}) for row in _rows(words, threads, limits)]


def _rows(words: int, threads: int, limits: Limits) -> list[Row]:
    vector = np.zeros(words, dtype=np.uint32)
    share = vector.nbytes // threads
    pieces, wholes = ([Room(size) for _ in range(threads)] for size in (PIECE, share))
    sides: dict[str, Side] = {
        "ours": lambda: timed(lambda: add_masks(vector, [(os.urandom(32), 1)], threads=threads)),
        PIECES: lambda: timed(lambda: _spread(share, pieces)),
        WHOLE: lambda: timed(lambda: _spread(share, wholes)),
    }
    for side in sides.values():
        side()  # touches every page once
    found = in_turns(sides, Limits(2 * limits.most, limits.seconds))
    quicker = min(
        (PIECES, WHOLE), key=lambda side: statistics.median(time.wall for time in found[side])
    )
    name = f"one mask of {words:,} words, {threads} thread{'s' * (threads > 1)}"
    return time_rows(name, found["ours"], found[quicker], peer_name=quicker)


class Room:
    """Where a thread encrypts zeros to, again and again."""

    def __init__(self, size: int) -> None:
        self.zeros, self.out = memoryview(bytes(size)), memoryview(bytearray(size))


def _spread(share: int, rooms: list[Room]) -> None:
    """Encrypt a share of the bytes in each room, by a thread for each."""
    if len(rooms) == 1:
        _encrypt(share, rooms[0])
        return
    with ThreadPoolExecutor(len(rooms)) as pool:
        list(pool.map(lambda room: _encrypt(share, room), rooms))


def _encrypt(share: int, room: Room) -> None:
    stream = Cipher(AES256(os.urandom(32)), CTR(bytes(16))).encryptor()
    for at in range(0, share, len(room.zeros)):
        size = min(share - at, len(room.zeros))
        stream.update_into(room.zeros[:size], room.out[:size])
