"""NumPy archives (`.npz`): entries that are no larger than they say, than can be, or than fits."""

from __future__ import annotations

import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedward.client.data.archive_rows import (
    DeflatedRows,
    Entry,
    EntryRows,
    HeldRows,
    Place,
    StoredRows,
)
from fedward.client.data.cache import Layout
from fedward.client.data.context import Context
from fedward.client.data.decoded import IN_MEMORY, SMALL, Fill, filled
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError

_HELD = 2**26  # bytes of an entry that is read as a whole
_MOST_DEFLATED = 1100  # times smaller than what it holds: more than zlib can do
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LOCAL = struct.Struct("<26sHH")  # a local file header of zip: lengths of name and extra field
_SHOWN = 40
_TODO = "mend the file, or write it with numpy.savez_compressed"
# What hostile bytes make of zipfile and of NumPy's reading of a head.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    RecursionError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    zlib.error,
    zipfile.BadZipFile,
)


class Archive:
    """An open archive.

    Attributes:
        keys: Names of its entries.
    """

    def __init__(self, opened: zipfile.ZipFile, file: IO[bytes], path: Path) -> None:
        self._opened, self._file, self._path = opened, file, path
        self._listed = {info.filename.removesuffix(".npy"): info for info in opened.infolist()}
        self.keys = tuple(self._listed)

    def entry(self, key: str, *, most: float = math.inf) -> Entry:
        """An array of at least one dimension.

        Args:
            key: Its name.
            most: Bytes, beyond which an entry is refused.

        Raises:
            DataError: It is not there, is damaged, holds objects, or claims more than it holds,
                than can be packed into the file or than half of the machine's memory.
        """
        self._head(key, min(most, psutil.virtual_memory().total // 2))
        try:
            with self._opened.open(self._listed[key]) as file:
                entry: Entry = npy.read_array(file, allow_pickle=False)
        except _BROKEN as error:
            raise self._unreadable(key, error) from None
        return entry

    def rows(self, key: str, *, most: float = math.inf) -> EntryRows:
        """The rows of an array of at least one dimension; a large one stays in the file.

        Args:
            key: Its name.
            most: Bytes, beyond which an entry is refused.

        Raises:
            DataError: As `entry`; but half of the machine's memory bounds only an entry that has to
                be read as a whole, because its numbers lie in Fortran's order.
        """
        head = self._head(key, most)
        info = self._listed[key]
        kind = _kind(info)
        if kind is None or info.file_size <= _HELD or (head.fortran and len(head.shape) > 1):
            return HeldRows(self.entry(key, most=most))
        file = os.dup(self._file.fileno())
        start, packed, size = _start(file, info), info.compress_size, info.file_size
        place = Place(start, packed, size, head.length, info.CRC, head.shape, head.dtype)
        return kind(file, place, self._unreadable(key))

    def _head(self, key: str, most: float) -> _Head:
        """What NumPy's head of an entry says, once it is known that it can be so."""
        where = str(self._path)
        if key not in self._listed:
            found = ", ".join(self.keys[:_SHOWN])
            raise DataError(f"has no entry {key!r}", todo=f"found: {found}", where=where)
        info, size = self._listed[key], self._path.stat().st_size
        packed = min(info.compress_size, size) * _MOST_DEFLATED + 1024
        if info.file_size > min(most, packed):
            raise DataError(
                f"entry {key!r} claims {info.file_size} bytes in {info.compress_size}: too many "
                f"for an archive of {size}, or than this machine has room for",
                todo="mend the file, or divide it",
                where=where,
            )
        try:
            with self._opened.open(info) as file:
                shape, fortran, kind = _HEADERS[npy.read_magic(file)](file)
                head = _Head(shape, bool(fortran), kind, file.tell())
        except _BROKEN as error:
            raise self._unreadable(key, error) from None
        claimed = math.prod(shape) * kind.itemsize
        if kind.hasobject or min(shape, default=0) < 0 or claimed != info.file_size - head.length:
            raise DataError(
                f"entry {key!r} claims {shape} of {kind}, which is not what it holds",
                todo=_TODO,
                where=where,
            )
        if not shape or kind.names:
            what = "is no array" if not shape else "has several fields in each value"
            raise DataError(f"entry {key!r} {what}", todo=_TODO, where=where)
        return head

    def _unreadable(self, key: str, error: Exception | None = None) -> DataError:
        why = "damaged, or changed meanwhile" if error is None else type(error).__name__
        return DataError(f"entry {key!r} cannot be read ({why})", todo=_TODO, where=str(self._path))


class _Head(NamedTuple):
    """NumPy's, of an array: shape, whether the first index runs fastest, type, and its length."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    length: int


def _kind(info: zipfile.ZipInfo) -> type[StoredRows | DeflatedRows] | None:
    """How an entry's rows are read from the file; None if they cannot be."""
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return DeflatedRows
    whole = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
    return StoredRows if whole else None


def _start(file: int, info: zipfile.ZipInfo) -> int:
    """Where an entry's bytes begin: behind its own head, which `zipfile` has looked at."""
    head = os.pread(file, _LOCAL.size, info.header_offset)
    _, name, extra = _LOCAL.unpack(head)
    return info.header_offset + _LOCAL.size + int(name) + int(extra)


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """An archive; what is said of its entries is looked at before anything is unpacked.

    Raises:
        DataError: It is not there, or no archive.
    """
    if not path.is_file():
        raise DataError("no such file", todo="check the path", where=str(path))
    with ExitStack() as closing:
        try:
            file = closing.enter_context(path.open("rb"))
            found = closing.enter_context(zipfile.ZipFile(file))
        except _BROKEN as error:
            raise DataError(
                f"is no NumPy archive, or was cut short ({type(error).__name__})",
                todo="give an .npz file",
                where=str(path),
            ) from None
        yield Archive(found, file, path)


def filled_from(
    entries: Sequence[EntryRows],
    key: str,
    fill: Fill,
    layout: Layout,
    context: Context,
    *,
    threads_from: float = SMALL,
) -> NDArray[Any] | Stored:
    """All records of an archive: in memory where that is small, else as `decoded.filled` has them.

    Args:
        entries: That they are in; all is held against its checksum before anything is used.
        key: What the file holds, and all that changes the decoding.
        fill: Decodes some records.
        layout: Of all of them.
        context: Where large ones are kept, and who is told of faults.
        threads_from: As for `decoded.filled`.

    Raises:
        DataError: An entry is damaged, or a record cannot be used.
    """

    def check() -> None:
        for entry in entries:
            entry.check()

    if all(entry.held for entry in entries) and layout.size <= IN_MEMORY:
        context = replace(context, cache=None)  # it would be read no faster
    return filled([key], fill, layout, context, check, threads_from=threads_from)
