"""Random numbers that nobody can foretell: the key stream of AES-256 in counter mode.

The key comes from the operating system, and the stream is NIST SP 800-38A's counter mode, so that
what protects patients does not hang on a generator that was made for simulations (Mersenne Twister
and Philox can be wound back from what they gave away). Normal numbers are made by Box and Muller's
transform (1958) in double precision. Each is half the sum of four, so that the gaps between
floating-point numbers do not give away what the noise was added to (Mironov 2012; Holohan and
Braghin 2021, section 5.1).
"""

from __future__ import annotations

import hashlib
import math
import secrets

import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from torch import Tensor

_CHUNK = 1 << 15  # words of 64 bits; a chunk and its temporaries stay in cache
_ZEROS = bytes(8 * _CHUNK)
_TERMS = 4  # normal numbers in each that is given out
_BITS = 53  # of a double's significand
_MASK = (1 << _BITS) - 1


class SecretStream:
    """One stream of random numbers. Its repr shows nothing of its key."""

    def __init__(self, key: bytes) -> None:
        """Start a stream.

        Args:
            key: 32 bytes; two streams with one key are the same stream.

        Raises:
            ValueError: The key has another length.
        """
        if len(key) != 32:
            raise ValueError(f"a key of 32 bytes is wanted, not {len(key)}")
        self._stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
        self._room = bytearray(8 * _CHUNK)
        self._words = torch.frombuffer(self._room, dtype=torch.int64)

    @classmethod
    def fresh(cls) -> SecretStream:
        """A stream of the operating system's entropy, which never comes again."""
        return cls(secrets.token_bytes(32))

    @classmethod
    def pretended(cls, seed: int, *purpose: object) -> SecretStream:
        """A stream that can be drawn again, for simulations: it protects nobody.

        Args:
            seed: The simulation's.
            purpose: What it is for; another purpose, another stream.
        """
        text = "\x1f".join(map(str, ("fedward pretended stream", seed, *purpose)))
        return cls(hashlib.sha256(text.encode()).digest())

    def uniform(self, count: int) -> Tensor:
        """Numbers in (0, 1), shape (count,), float64, multiples of 2^-53 (no 0, no 1)."""
        numbers = torch.empty(count, dtype=torch.float64)
        for at in range(0, count, _CHUNK):
            piece = numbers[at : at + _CHUNK]
            piece.copy_(self._fractions(len(piece)))
        return numbers

    def normal(self, count: int) -> Tensor:
        """Standard normal numbers, shape (count,), float32, on the CPU."""
        numbers = torch.empty(count)
        for at in range(0, count, _CHUNK):
            piece = numbers[at : at + _CHUNK]
            total = self._box_muller(len(piece))
            for _ in range(_TERMS - 1):
                total += self._box_muller(len(piece))
            piece.copy_(total.div_(math.sqrt(_TERMS)))
        return numbers

    def _box_muller(self, count: int) -> Tensor:
        half = (count + 1) // 2
        fractions = self._fractions(2 * half)
        radius = fractions[:half].log_().mul_(-2).sqrt_()
        angle = fractions[half:].mul_(2 * math.pi)
        return torch.cat([angle.cos().mul_(radius), angle.sin_().mul_(radius)])[:count]

    def _fractions(self, count: int) -> Tensor:
        """At most a chunk of uniform numbers."""
        size = 8 * count
        self._stream.update_into(memoryview(_ZEROS)[:size], memoryview(self._room)[:size])
        whole = (self._words[:count] & _MASK).double()
        return whole.clamp_(min=1).mul_(2.0**-_BITS)

    def __repr__(self) -> str:
        return "SecretStream()"
