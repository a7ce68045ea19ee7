"""NumPy archives (`.npz`): entries that are no larger than they say, than can be, or than fits."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.typing import NDArray

from fedward.study.errors import DataError

Entry = NDArray[np.generic]

_MOST_DEFLATED = 1100  # times smaller than what it holds: more than zlib can do
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_SHOWN = 40
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

    def __init__(self, opened: zipfile.ZipFile, path: Path) -> None:
        self._opened, self._path = opened, path
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
        where, todo = str(self._path), "mend the file, or write it with numpy.savez_compressed"
        if key not in self._listed:
            found = ", ".join(self.keys[:_SHOWN])
            raise DataError(f"has no entry {key!r}", todo=f"found: {found}", where=where)
        info, size = self._listed[key], self._path.stat().st_size
        packed = min(info.compress_size, size) * _MOST_DEFLATED + 1024
        if info.file_size > min(most, packed, psutil.virtual_memory().total // 2):
            raise DataError(
                f"entry {key!r} claims {info.file_size} bytes in {info.compress_size}: too many "
                f"for an archive of {size}, or than this machine has room for",
                todo="mend the file, or divide it",
                where=where,
            )
        try:
            with self._opened.open(info) as file:
                shape, _, kind = _HEADERS[npy.read_magic(file)](file)
                claimed = math.prod(shape) * kind.itemsize
                if kind.hasobject or claimed != info.file_size - file.tell():
                    raise DataError(
                        f"entry {key!r} claims {shape} of {kind}, which is not what it holds",
                        todo=todo,
                        where=where,
                    )
            with self._opened.open(info) as file:
                entry: Entry = npy.read_array(file, allow_pickle=False)
        except _BROKEN as error:
            raise DataError(
                f"entry {key!r} cannot be read ({type(error).__name__})", todo=todo, where=where
            ) from None
        if entry.ndim == 0:
            raise DataError(f"entry {key!r} is no array", todo=todo, where=where)
        return entry


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """An archive; what is said of its entries is looked at before anything is unpacked.

    Raises:
        DataError: It is not there, or no archive.
    """
    if not path.is_file():
        raise DataError("no such file", todo="check the path", where=str(path))
    try:
        found = zipfile.ZipFile(path)
    except _BROKEN as error:
        raise DataError(
            f"is no NumPy archive, or was cut short ({type(error).__name__})",
            todo="give an .npz file",
            where=str(path),
        ) from None
    with found:
        yield Archive(found, path)
