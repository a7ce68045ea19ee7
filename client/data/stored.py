"""Records that stay on disk: rows of an array, seen through an index, read when they are asked for.

A data set may be larger than memory. What takes rows of a tensor takes them of `Stored` alike, and
gets a tensor of those rows only.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.study.errors import DataError

Array = NDArray[Any]
Which = Tensor | NDArray[np.bool_] | NDArray[np.int64] | slice

_AT_ONCE = 2**24  # bytes of a piece, where nobody says how large it is to be
_MAPPED = 2**26  # bytes of the file that the process has in its memory before it lets go of them
_LEAST_MAPPED = 2**21  # bytes that the system may map for one row: a large page of its cache


class Rows(Protocol):
    """Numbered rows that can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape of a row)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers in a row."""

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """These rows, each number in [0, n), in an array of their own."""


class Stored:
    """Rows that are read when they are asked for.

    Attributes:
        shape: (n, *shape of a row), as a tensor's.
        dtype: NumPy's.
    """

    def __init__(
        self,
        rows: Rows,
        index: NDArray[np.int64] | None = None,
        change: Callable[[Tensor], Tensor] | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        """See some rows, in some order.

        Args:
            rows: All there are.
            index: Numbers of those that are seen, shape (n,); all of them if left out.
            change: Done to whatever is read, a row at a time or many; keeps the shape.
            dtype: After that; the rows' own if left out.
        """
        self._rows = rows
        self._index = np.arange(rows.shape[0]) if index is None else index
        self._change = change
        self.dtype = dtype or rows.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape of a row)."""
        return (len(self._index), *self._rows.shape[1:])

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._index)

    def chosen(self, which: Which) -> Stored:
        """Only these rows; nothing is read or copied.

        Raises:
            IndexError: There is no such row.
        """
        return Stored(self._rows, self._index[_plain(which)], self._change, self.dtype)

    def mapped(
        self, change: Callable[[Tensor], Tensor], dtype: np.dtype[Any] | None = None
    ) -> Stored:
        """The same rows with something done to them when they are read, which may change dtype."""
        before = self._change
        whole = change if before is None else lambda rows: change(before(rows))
        return Stored(self._rows, self._index, whole, dtype or self.dtype)

    def rows(self, which: Which) -> Tensor:
        """These rows as a tensor of their own, on the CPU.

        Raises:
            IndexError: There is no such row.
            DataError: They cannot be read.
        """
        found = torch.from_numpy(self._rows.take(self._index[_plain(which)]))
        return found if self._change is None else self._change(found)

    def __getitem__(self, which: Which) -> Tensor:
        """The same as `rows`."""
        return self.rows(which)

    def split(self, size: int) -> Iterator[Tensor]:
        """All rows in pieces of so many, one in memory at a time; one where there are no rows."""
        for start in range(0, max(len(self), 1), size):
            yield self.rows(slice(start, start + size))


class FileRows:
    """Rows of a raw file: nothing but their numbers, one row behind the other."""

    def __init__(self, file: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Map a file that nobody makes shorter while it is in use.

        Args:
            file: Its descriptor, which may be closed then; a lock on it lasts as long as this.
            shape: (n, *shape of a row), n >= 1.
            dtype: Of the numbers.

        Raises:
            DataError: The file has another size.
        """
        size = math.prod(shape) * dtype.itemsize
        self._map = mmap.mmap(file, 0, prot=mmap.PROT_READ)
        if len(self._map) != size:
            raise DataError(
                f"stored records of {len(self._map)} bytes, not {size}",
                todo="delete the folder of decoded records",
            )
        self._array = np.frombuffer(self._map, dtype).reshape(shape)
        self._row = max(size // shape[0], _LEAST_MAPPED)
        self._mapped = 0
        self._is_large = size > _MAPPED

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape of a row)."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers in a row."""
        return self._array.dtype

    def take(self, numbers: NDArray[np.int64]) -> Array:
        """These rows; pages that were read stay the system's, which may take them back."""
        found: Array = self._array[numbers]
        self._mapped += len(numbers) * self._row
        if self._is_large and self._mapped > _MAPPED and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)
            self._mapped = 0
        return found


class _Joined:
    """Rows of several, one behind the other."""

    def __init__(self, pieces: Sequence[Tensor | Stored]) -> None:
        self._pieces = pieces
        self._ends = np.cumsum([len(piece) for piece in pieces])
        stored = next(piece for piece in pieces if isinstance(piece, Stored))
        self.shape = (int(self._ends[-1]), *stored.shape[1:])
        self.dtype = stored.dtype

    def take(self, numbers: NDArray[np.int64]) -> Array:
        found = np.empty((len(numbers), *self.shape[1:]), self.dtype)
        places = np.searchsorted(self._ends, numbers, side="right")
        for place in np.unique(places):
            here, piece = places == place, self._pieces[place]
            first = self._ends[place] - len(piece)
            found[here] = piece[torch.from_numpy(numbers[here] - first)].cpu().numpy()
        return found


def joined(pieces: Sequence[Tensor | Stored]) -> Tensor | Stored:
    """All rows, one piece behind the other; none are read."""
    tensors = [piece for piece in pieces if isinstance(piece, Tensor)]
    return torch.cat(tensors) if len(tensors) == len(pieces) else Stored(_Joined(pieces))


def in_pieces(inputs: Array | Tensor | Stored) -> Iterator[Array]:
    """All rows as arrays, one after the other; in one piece what is in memory already."""
    if isinstance(inputs, Stored):
        row = math.prod(inputs.shape[1:]) * inputs.dtype.itemsize
        yield from (piece.numpy() for piece in inputs.split(max(_AT_ONCE // max(row, 1), 1)))
    else:
        yield inputs.cpu().contiguous().numpy() if isinstance(inputs, Tensor) else inputs


def _plain(which: Which) -> NDArray[np.bool_] | NDArray[np.int64] | slice:
    return which.cpu().numpy() if isinstance(which, Tensor) else which
