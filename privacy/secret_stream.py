"""Random numbers that nobody can foretell: the key stream of AES-256 in counter mode.

The key comes from the operating system, and the stream is NIST SP 800-38A's counter mode, so that
what protects patients does not hang on a generator that was made for simulations (Mersenne Twister
and Philox can be wound back from what they gave away). Normal numbers are made by Box and Muller's
transform (1958) in double precision.

The gaps between floating-point numbers could give away what noise was added to (Mironov 2012). Two
things are done about it. Each normal number is half the sum of four (Holohan and Braghin 2021,
section 5.1). And noise is scaled and added in double precision, and only the sum is rounded, to a
grid that depends on nothing secret (Google 2020, "Secure Noise Generation"; that the precision of
an unrounded sum tells of its terms: Haney et al. 2022).
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.lib.introspect import opt_func_info
from numpy.typing import NDArray
from torch import Tensor

Doubles = NDArray[np.float64]

# Words of 64 bits. A chunk and its temporaries stay in cache, and it is too short for PyTorch to
# spread over threads, which would wait for one another where other work runs.
_CHUNK = 1 << 15
_ZEROS = bytes(8 * _CHUNK)
_TERMS = 4  # normal numbers in each that is given out
_BITS = 53  # of a double's significand
_MASK = (1 << _BITS) - 1
_GRID = 24  # bits below the deviation that noisy numbers keep


def _in_place(name: str) -> Callable[[Doubles], object]:
    """The quicker of two: NumPy's function where it is vectorised (AVX-512), else PyTorch's."""
    targets = opt_func_info(f"^{name}$", "float64").get(name, {}).get("dd", {})
    if targets.get("current", "").startswith(("AVX512", "X86_V4")):
        function: np.ufunc = getattr(np, name)
        return lambda numbers: function(numbers, out=numbers)
    vectorised: Callable[[Tensor], Tensor] = getattr(torch, f"{name}_")
    return lambda numbers: vectorised(torch.from_numpy(numbers))


_log, _tan = _in_place("log"), _in_place("tan")


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
        self._words = np.frombuffer(self._room, dtype="<i8")
        self._left = np.empty(0)  # normal numbers drawn and not given out: short draws are slow

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
        numbers = np.empty(count)
        for at in range(0, count, _CHUNK):
            piece = numbers[at : at + _CHUNK]
            np.maximum(self._whole(len(piece)), 1, out=piece)
        return torch.from_numpy(numbers).mul_(2.0**-_BITS)

    def normal(self, count: int) -> Tensor:
        """Standard normal numbers, shape (count,), float64, on the CPU."""
        return torch.from_numpy(self._normal(count))

    def _normal(self, count: int) -> Doubles:
        numbers = np.empty(count)
        at = 0
        while at < count:
            if not len(self._left):
                self._left = self._box_muller()
            piece = numbers[at : at + len(self._left)]
            piece[:], self._left = self._left[: len(piece)], self._left[len(piece) :]
            at += len(piece)
        return numbers

    def noisy(self, values: Tensor, deviation: float) -> Tensor:
        """Values with normal noise, float64, on the CPU; without noise if the deviation is 0.

        They are multiples of a power of two between 2^-24 and 2^-23 of the deviation.

        Args:
            values: Shape (n,), on any device.
            deviation: Standard deviation of the noise.
        """
        if not deviation:
            return values.detach().cpu().double()
        grid = math.ldexp(1, math.frexp(deviation)[1] - _GRID)
        sums = self._normal(len(values))
        sums *= deviation
        sums += values.detach().cpu().numpy()
        sums /= grid
        np.rint(sums, out=sums)
        sums *= grid
        return torch.from_numpy(sums)

    def _box_muller(self) -> Doubles:
        """A chunk's normal numbers: halves of sums of four.

        With t the tangent of half the angle, its cosine is 2 / (1 + t^2) - 1 and its sine
        2 t / (1 + t^2): one function to compute, not two.
        """
        radius, tangent = self._whole(_CHUNK).reshape(2, _TERMS, -1)
        radius += 0.5  # no logarithm of 0
        radius *= 2.0**-_BITS
        _log(radius)
        radius *= -2
        np.sqrt(radius, out=radius)
        tangent *= math.pi * 2.0**-_BITS
        _tan(tangent)
        cosine = np.square(tangent)
        cosine += 1
        np.divide(radius, cosine, out=cosine)
        cosine *= 2
        tangent *= cosine
        cosine -= radius
        numbers = np.concatenate([cosine.sum(axis=0), tangent.sum(axis=0)])
        numbers /= math.sqrt(_TERMS)
        return numbers

    def _whole(self, count: int) -> Doubles:
        """At most a chunk of whole numbers below 2^53."""
        size = 8 * count
        self._stream.update_into(memoryview(_ZEROS)[:size], memoryview(self._room)[:size])
        words = self._words[:count]
        words &= _MASK
        return words.astype(np.float64)

    def __repr__(self) -> str:
        return "SecretStream()"
