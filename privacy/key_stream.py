"""The key stream of a seed, from any of its blocks on.

It is AES-256 in counter mode (NIST SP 800-38A, section 6.5) with the seed as key and a counter that
starts at zero. A seed is used for one purpose only.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

SEED_SIZE = 32
"""Bytes of a seed."""

BLOCK_SIZE = 16
"""Bytes of a block."""

MOST_AT_ONCE = 1 << 18
"""Bytes that are read at once; more leave the processor's second cache."""

_ZEROS = memoryview(bytes(MOST_AT_ONCE))


class KeyStream:
    """A place in the stream of one seed."""

    def __init__(self, seed: bytes, *, block: int) -> None:
        """Begin at a block.

        Args:
            seed: 32 bytes.
            block: Number of the first block, >= 0.

        Raises:
            ValueError: The seed has another length.
        """
        counter = block.to_bytes(BLOCK_SIZE, "big")
        self._context = Cipher(AES256(seed), CTR(counter)).encryptor()

    def read_into(self, room: memoryview) -> None:
        """Fill a room with the bytes that come next.

        Args:
            room: Contiguous, writable bytes, at most `MOST_AT_ONCE`.

        Raises:
            ValueError: The room is too large; nothing was written.
        """
        if len(room) > MOST_AT_ONCE:
            raise ValueError(f"at most {MOST_AT_ONCE} bytes are read at once, not {len(room)}")
        self._context.update_into(_ZEROS[: len(room)], room)
