"""Files that are packed, read with a bound: a small file must not fill the memory."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

from fedward.study.errors import DataError

_RATIO = 200  # of tables and sequences that hold anything, rarely more than 50
_ALWAYS = 2**24  # bytes that any file may unpack to
_PACKED = {".bz2", ".xz", ".zip", ".zst"}


def read_bytes(path: Path) -> bytes:
    """All of a file, unpacked where its name ends in `.gz`.

    Raises:
        DataError: It is not there, cannot be unpacked, or is far larger than it looks.
    """
    if path.suffix.lower() in _PACKED:
        raise DataError(f"is packed as {path.suffix}", todo="unpack it", where=str(path))
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise DataError("is no file", todo="check the path", where=str(path))
    try:
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        bound = max(_ALWAYS, _RATIO * path.stat().st_size)
        with gzip.open(path) as file:
            content = file.read(bound + 1)
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(path)) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"cannot be read ({error})", todo="check the file", where=str(path)
        ) from None
    if len(content) > bound:
        raise DataError(
            f"unpacks to more than {bound} bytes, {_RATIO} times its size",
            todo="unpack it, if that is meant",
            where=str(path),
        )
    return content


def read_text(path: Path) -> str:
    """All of a text file in UTF-8; a byte order mark is no part of it.

    Raises:
        DataError: As `read_bytes`; or it is no UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"is no UTF-8 from byte {error.start} on", todo="save it as UTF-8", where=str(path)
        ) from None


def lines_of(text: str) -> io.StringIO:
    """Its lines, whichever way they end; unlike `splitlines` no other sign ends one."""
    return io.StringIO(text, newline=None)
