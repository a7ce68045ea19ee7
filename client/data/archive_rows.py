"""Rows of an entry of a NumPy archive, read a few at a time, however large the entry is.

Small entries are held in memory. Of a large one that is stored as it is, the rows' bytes are read
where they lie in the file (and not mapped: a file that is cut short meanwhile would end the
process). One that is deflated has to be inflated from its start; on the way the state of zlib is
kept now and then (`Decompress.copy`), and reading goes on from the nearest one.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fedward.study.errors import DataError

Entry = NDArray[np.generic]

_BLOCK = 2**22  # bytes that are inflated, and kept, together
_BLOCKS = 4  # that are kept: some threads are a little behind the others
_STATES = 256  # of zlib, of about 64 KiB each
_PACKED = 2**14  # bytes that zlib is given at a time
_PLAIN = -15  # zlib's word for a stream without a head, as zip files have it


class EntryRows(Protocol):
    """Rows of an entry, which may be asked for by several threads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, *shape of a row)."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""

    @property
    def held(self) -> bool:
        """Whether all of it is in memory already."""

    def take(self, first: int, last: int) -> Entry:
        """Rows from first to before last, not to be written to.

        Raises:
            DataError: The file was changed or is damaged.
        """

    def check(self) -> None:
        """Read all of it once, and hold it against its checksum.

        Raises:
            DataError: It is damaged.
        """


class HeldRows:
    """An entry that is in memory."""

    held = True

    def __init__(self, entry: Entry) -> None:
        """An array of one dimension or more, which was checked when it was read."""
        self._entry = entry
        self.shape, self.dtype = entry.shape, entry.dtype

    def take(self, first: int, last: int) -> Entry:
        """Rows from first to before last."""
        return self._entry[first:last]

    def check(self) -> None:
        """Nothing: it was read with its checksum."""


class Place(NamedTuple):
    """Where an entry's bytes are in the archive.

    Attributes:
        start: Of the entry, as it is stored or deflated, in the file.
        packed: Bytes that it takes there.
        size: Bytes that it has, with NumPy's head.
        head: Bytes of NumPy's head.
        checksum: CRC-32 of all of it.
        shape: Of the array, in C's order; the first number may be 0.
        dtype: Of the numbers.
    """

    start: int
    packed: int
    size: int
    head: int
    checksum: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


class _FileRows:
    """What rows in the file have in common: a reader of the entry's bytes decides the rest."""

    held = False

    def __init__(self, file: int, place: Place, damaged: DataError) -> None:
        """Read from a file.

        Args:
            file: Its descriptor, which is closed with this.
            place: Of the entry.
            damaged: What is raised where the bytes are not what they should be.
        """
        self._file, self._place, self._damaged = file, place, damaged
        self.shape, self.dtype = place.shape, place.dtype
        self._row = math.prod(place.shape[1:]) * place.dtype.itemsize
        weakref.finalize(self, os.close, file)

    def take(self, first: int, last: int) -> Entry:
        """Rows from first to before last, in an array of their own."""
        start = self._place.head + first * self._row
        found = self._bytes(start, (last - first) * self._row)
        rows: Entry = np.frombuffer(found, self.dtype).reshape(last - first, *self.shape[1:])
        return rows

    def check(self) -> None:
        """Read all of it once."""
        found = 0
        for start in range(0, self._place.size, _BLOCK):
            count = min(_BLOCK, self._place.size - start)
            found = zlib.crc32(self._bytes(start, count), found)
        if found != self._place.checksum:
            raise self._damaged

    def _bytes(self, start: int, count: int) -> bytes | bytearray:
        """So many bytes of the entry, from its start with NumPy's head on."""
        raise NotImplementedError

    def _read(self, start: int, count: int) -> bytes:
        """Bytes of the file."""
        try:
            return os.pread(self._file, count, start)
        except OSError:
            raise self._damaged from None


class StoredRows(_FileRows):
    """An entry that is in the file as it is."""

    def _bytes(self, start: int, count: int) -> bytes | bytearray:
        found = self._read(self._place.start + start, count)
        if len(found) == count:
            return found
        whole = bytearray(found)  # Linux reads 2 GiB at the most
        while len(whole) < count:
            more = self._read(self._place.start + start + len(whole), count - len(whole))
            if not more:
                raise self._damaged
            whole += more
        return whole


class DeflatedRows(_FileRows):
    """An entry that is deflated."""

    def __init__(self, file: int, place: Place, damaged: DataError) -> None:
        """Inflate from a file."""
        super().__init__(file, place, damaged)
        self._reading = threading.Lock()
        blocks = -(-place.size // _BLOCK)
        self._every = -(-blocks // _STATES)  # blocks from one state to the next
        self._states = {0: _Inflating(zlib.decompressobj(_PLAIN), 0, 0)}
        self._now = self._states[0].copy()
        self._last: dict[int, bytes] = {}

    def _bytes(self, start: int, count: int) -> bytes | bytearray:
        found = bytearray()
        while len(found) < count:
            block, within = divmod(start + len(found), _BLOCK)
            with self._reading:
                whole = self._last.get(block) or self._inflated(block)
            found += whole[within : within + count - len(found)]
        return found

    def _inflated(self, block: int) -> bytes:
        """A block, inflated from the nearest state before it; those on the way are kept too."""
        nearest = max(number for number in self._states if number <= block)
        if not nearest <= self._now.block <= block:
            self._now = self._states[nearest].copy()
        while True:
            number = self._now.block
            whole = self._next()
            self._last[number] = whole
            while len(self._last) > _BLOCKS:
                self._last.pop(next(iter(self._last)))
            if number == block:
                return whole

    def _next(self) -> bytes:
        """The block that is next in the stream."""
        now, found = self._now, bytearray()
        wanted = min(_BLOCK, self._place.size - now.block * _BLOCK)
        try:
            for packed in self._packed(now):
                found += now.zlib.decompress(packed, wanted - len(found))
                now.at += len(packed) - len(now.zlib.unconsumed_tail)
                if len(found) == wanted:
                    break
        except zlib.error:
            raise self._damaged from None
        if len(found) < wanted:
            raise self._damaged
        now.block += 1
        if now.block % self._every == 0:
            self._states.setdefault(now.block, now.copy())
        return bytes(found)

    def _packed(self, now: _Inflating) -> Iterator[bytes]:
        """Deflated bytes from where the stream is; then nothing, for what zlib still holds."""
        while left := min(_PACKED, self._place.packed - now.at):
            packed = self._read(self._place.start + now.at, left)
            if not packed:
                return
            yield packed
        yield b""


class _Inflating:
    """zlib on its way: the number of the next block, and of deflated bytes that it has had."""

    def __init__(self, inflating: zlib._Decompress, at: int, block: int) -> None:
        self.zlib, self.at, self.block = inflating, at, block

    def copy(self) -> _Inflating:
        return _Inflating(self.zlib.copy(), self.at, self.block)
