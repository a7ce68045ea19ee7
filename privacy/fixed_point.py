"""Real numbers as whole numbers modulo 2**32, whose sums mean sums.

A value v becomes v * scale, rounded up or down at random so that its mean is right (stochastic
rounding), to a millionth of a step. The scale leaves room for the sum over all hospitals: it cannot
wrap around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.key_stream import BLOCK_SIZE, MOST_AT_ONCE, SEED_SIZE, KeyStream
from fedward.privacy.parts import in_parts

_HALF = 2**31
_WORD = 4  # bytes of noise for one value
_BLOCK = BLOCK_SIZE // _WORD  # values that one block of noise is for
_CHUNK = MOST_AT_ONCE // _WORD  # values; the temporaries of a chunk stay in cache

# A word times this is uniform between -1/2 and 1/2 and keeps 2**-21 away from both: added to a
# whole number below 2**31 in double precision, it never reaches the middle to the next.
_TO_SHIFT = (1 - 2**-20) / 2**32

Reals = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True)
class FixedPoint:
    """The code of one block of a contribution.

    Attributes:
        scale: Whole numbers to one unit; finite, > 0.
        hospitals: Whose values are added up; at least 1.
        bound: Largest magnitude of one value; if not given, as much as there is room for.
    """

    scale: float
    hospitals: int
    bound: float = math.inf

    def __post_init__(self) -> None:
        """Refuse what cannot be added up without wrapping around, with ValueError."""
        if not (0 < self.scale < math.inf and 1 <= self.hospitals < _HALF and self.bound > 0):
            raise ValueError(f"not possible: {self}")
        if self.bound < math.inf and not self.bound * self.scale <= self._room:
            raise ValueError(f"sums of such values can leave 32 bits: {self}")

    @classmethod
    def for_bound(cls, bound: float, hospitals: int) -> FixedPoint:
        """The finest code for values of magnitude <= `bound`.

        Raises:
            ValueError: The bound is not finite and > 0, or there are no or too many hospitals.
        """
        if not (0 < bound < math.inf and 1 <= hospitals < _HALF):
            raise ValueError(f"not possible: bound {bound}, {hospitals} hospitals")
        room = (_HALF - 1) // hospitals
        scale = room / bound
        if room < bound * scale < math.inf:  # the division was rounded up
            scale = math.nextafter(scale, 0)
        return cls(scale, hospitals, bound)

    @classmethod
    def for_counts(cls, largest: int, hospitals: int) -> FixedPoint:
        """The exact code of whole numbers of magnitude <= `largest`.

        Raises:
            ValueError: hospitals * largest >= 2**31, or one of them is below 1.
        """
        if largest < 1 or hospitals < 1 or hospitals * largest >= _HALF:
            raise ValueError(f"{hospitals} counts up to {largest} do not add up within 2**31 - 1")
        return cls(1.0, hospitals, float(largest))

    @property
    def error_bound(self) -> float:
        """Largest error of one encoded value; its mean is zero, to a millionth of this.

        Whole multiples of this have no error at all.
        """
        return 1 / self.scale

    @property
    def _room(self) -> int:
        return (_HALF - 1) // self.hospitals

    def encode(
        self,
        values: Reals,
        *,
        rng: np.random.Generator,
        factor: float = 1.0,
        out: NDArray[np.uint32] | None = None,
        threads: int | None = None,
    ) -> NDArray[np.uint32]:
        """Whole numbers modulo 2**32 for `values * factor`; the same for any number of threads.

        Args:
            values: Shape (n,), float32 or float64.
            rng: For the rounding, which is no secret; 32 bytes are drawn.
            factor: Finite. The product, in double precision, is of magnitude <= `bound`; it is
                made on the way, without a copy of the values.
            out: Where to write: shape (n,), uint32, writable. A new array if not given.
            threads: At least 1; None for one a core. A short vector gets fewer.

        Returns:
            `out`, shape (n,), uint32; beside it only temporaries of the size of a cache are made.

        Raises:
            ValueError: A product is NaN or beyond the bound, and some of `out` may be written; or
                an argument is none of these.
        """
        coded = np.empty(values.shape, dtype=np.uint32) if out is None else out
        _check(values, coded)
        seed = rng.bytes(SEED_SIZE)

        def encode(part: slice) -> None:
            noise = KeyStream(seed, block=part.start // _BLOCK)
            self._encode(values[part], factor, noise, coded[part].view(np.int32))

        in_parts(encode, values.size, step=_BLOCK, threads=threads)
        return coded

    def decode(self, total: NDArray[np.uint32]) -> NDArray[np.float64]:
        """The sum that encoded values add up to.

        Args:
            total: Shape (n,), uint32: a sum, modulo 2**32, over at most `hospitals` vectors.

        Returns:
            Shape (n,), float64; off by at most `error_bound` for each vector in the sum.

        Raises:
            ValueError: The array is of another kind.
        """
        if total.ndim != 1 or total.dtype != np.uint32:
            raise ValueError(f"a vector of uint32 is wanted, not {total.dtype} {total.shape}")
        decoded: NDArray[np.float64] = total.view(np.int32) / np.float64(self.scale)
        return decoded

    def _encode(
        self, values: Reals, factor: float, noise: KeyStream, coded: NDArray[np.int32]
    ) -> None:
        room = memoryview(bytearray(_WORD * min(_CHUNK, values.size)))
        words = np.frombuffer(room, dtype="<i4")
        all_steps, all_shifts = np.empty((2, words.size))
        for at in range(0, values.size, _CHUNK):
            chunk = values[at : at + _CHUNK]
            self._check_magnitude(chunk, factor)
            steps, shifts = all_steps[: chunk.size], all_shifts[: chunk.size]
            np.multiply(chunk, factor, out=steps, dtype=np.float64)
            steps *= self.scale
            noise.read_into(room[: _WORD * chunk.size])
            np.multiply(words[: chunk.size], _TO_SHIFT, out=shifts)
            steps += shifts
            coded[at : at + _CHUNK] = np.rint(steps, out=steps)

    def _check_magnitude(self, values: Reals, factor: float) -> None:
        peak = max(float(values.max()), -float(values.min())) * abs(factor)
        if not (peak <= self.bound and peak * self.scale <= self._room):  # so that NaN fails
            raise ValueError(f"a value of magnitude {peak:g} is beyond the bound, {self.bound:g}")


def _check(values: Reals, coded: NDArray[np.uint32]) -> None:
    if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
        raise ValueError(f"a vector of floats is wanted, not {values.dtype} {values.shape}")
    if coded.shape != values.shape or coded.dtype != np.uint32 or not coded.flags.writeable:
        raise ValueError(f"the code of {values.size} values is {values.size} writable uint32")
