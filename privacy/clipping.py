"""Keeping an update within an L2 bound: its norm, the factor that shortens it, and the result.

`clip_norm` makes a shorter copy. Where the update is scaled anyway (weighted, encoded), multiplying
by `clip_factor` on the way saves that copy.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.parts import in_parts

_ROW = 1 << 13  # values; BLAS would spread a longer sum over threads of its own
_CHUNK = 8 * _ROW  # values; the temporaries of a chunk stay in cache
_SLACK = 2**-22  # makes up for rounding the scaled values, and the sum over their squares

Update = NDArray[np.float32]


def l2_norm(update: Update, *, threads: int | None = None) -> float:
    """The Euclidean norm, in double precision; the same for any number of threads.

    Args:
        update: Shape (n,), float32, finite.
        threads: At least 1; None for one a core. A short vector gets fewer.

    Raises:
        ValueError: An argument is none of these.
    """
    if update.ndim != 1 or update.dtype != np.float32:
        raise ValueError(f"not possible: the norm of {update.dtype} {update.shape}")
    squares = in_parts(lambda part: _squares(update[part]), update.size, step=_ROW, threads=threads)
    norm = math.sqrt(math.fsum(square for some in squares for square in some))
    if not norm < math.inf:
        raise ValueError("the update is not finite")
    return norm


def clip_factor(update: Update, bound: float) -> float:
    """What to multiply the update by so that its L2 norm is within the bound.

    Args:
        update: Shape (n,), float32, finite.
        bound: Finite, > 0.

    Returns:
        1.0 if its norm is within the bound; else what makes it less than a millionth shorter.

    Raises:
        ValueError: The update or the bound is none of these.
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"not possible: bound {bound}")
    norm = l2_norm(update)
    return 1.0 if norm <= bound else bound / norm * (1 - _SLACK)


def clip_norm(update: Update, bound: float) -> Update:
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
    factor = clip_factor(update, bound)
    return update if factor == 1 else _scaled(update, factor)


def _scaled(update: Update, factor: float) -> Update:
    """The product, each value rounded once."""
    scaled = np.empty_like(update)
    for at in range(0, update.size, _CHUNK):
        scaled[at : at + _CHUNK] = update[at : at + _CHUNK].astype(np.float64) * factor
    return scaled


def _squares(part: Update) -> list[float]:
    """Sums of squares of rows; a row is the same one whatever part it is in."""
    rows = np.zeros((_CHUNK // _ROW, _ROW))
    wide = rows.reshape(-1)
    found: list[float] = []
    for at in range(0, part.size, _CHUNK):
        chunk = part[at : at + _CHUNK]
        wide[: chunk.size] = chunk
        wide[chunk.size :] = 0
        found += np.vecdot(rows, rows).tolist()
    return found
