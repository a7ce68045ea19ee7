"""Real numbers as whole numbers modulo 2**32, whose sums mean sums.

A value v becomes v * scale, rounded up or down at random so that its mean is right (stochastic
rounding). The scale leaves room for the sum over all hospitals: it cannot wrap around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_HALF = 2**31
_CHUNK = 1 << 14  # values; the temporaries of a chunk stay in cache

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
        """Largest error of one encoded value; its mean is zero. Whole multiples have none."""
        return 1 / self.scale

    @property
    def _room(self) -> int:
        return (_HALF - 1) // self.hospitals

    def encode(self, values: Reals, *, rng: np.random.Generator) -> NDArray[np.uint32]:
        """Whole numbers modulo 2**32.

        Args:
            values: Shape (n,), float32 or float64, of magnitude <= `bound`.
            rng: For the rounding, which is no secret.

        Returns:
            Shape (n,), uint32; beside it only temporaries of the size of a cache are made.

        Raises:
            ValueError: A value is NaN or beyond the bound, or the array is none of these.
        """
        if values.ndim != 1 or values.dtype not in (np.float32, np.float64):
            raise ValueError(f"a vector of floats is wanted, not {values.dtype} {values.shape}")
        coded = np.empty(values.size, dtype=np.int32)
        for at in range(0, values.size, _CHUNK):
            part = slice(at, at + _CHUNK)
            coded[part] = self._rounded(values[part].astype(np.float64), rng)
        return coded.view(np.uint32)

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

    def _rounded(
        self, values: NDArray[np.float64], rng: np.random.Generator
    ) -> NDArray[np.float64]:
        peak = float(np.abs(values).max())
        if not (peak <= self.bound and peak * self.scale <= self._room):  # so that NaN fails
            raise ValueError(f"a value of magnitude {peak:g} is beyond the bound, {self.bound:g}")
        values *= self.scale
        low = np.floor(values)
        # Compared, not added before rounding down: a sum could be rounded up and out of range.
        values -= low
        low += rng.random(values.size) < values
        return low


def clip_norm(update: NDArray[np.float32], bound: float) -> NDArray[np.float32]:
    """The update, shortened to the L2 norm `bound` if it is longer.

    Args:
        update: Shape (n,), float32, finite.
        bound: Finite, > 0.

    Returns:
        The same array if its norm is within the bound; else a new one, shape (n,), float32, whose
        norm is at most `bound` and less than a millionth below it.

    Raises:
        ValueError: The update or the bound is none of these.
    """
    if update.ndim != 1 or update.dtype != np.float32 or not 0 < bound < math.inf:
        raise ValueError(f"not possible: {update.dtype} {update.shape}, bound {bound}")
    norm = math.sqrt(sum(_square(update[at : at + _CHUNK]) for at in _starts(update)))
    if not norm < math.inf:
        raise ValueError("the update is not finite")
    return update if norm <= bound else _scaled(update, bound / norm * (1 - 2**-22))


def _scaled(update: NDArray[np.float32], factor: float) -> NDArray[np.float32]:
    """The product, each value rounded once; `factor` makes up for the rounding."""
    scaled = np.empty_like(update)
    for at in _starts(update):
        scaled[at : at + _CHUNK] = update[at : at + _CHUNK].astype(np.float64) * factor
    return scaled


def _square(part: NDArray[np.float32]) -> float:
    wide = part.astype(np.float64)
    return float(np.dot(wide, wide))


def _starts(update: NDArray[np.float32]) -> range:
    return range(0, update.size, _CHUNK)
