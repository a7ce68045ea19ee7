"""A file that is read in the state it was keyed by, or not at all."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from fedward.client.data.decoded import State, state_in, state_of
from fedward.study.errors import DataError

_AT_ONCE = 2**20  # bytes of a file that is read in one go


@contextmanager
def unchanged(file: Path, state: State) -> Iterator[IO[bytes]]:
    """A file to read from; a small one is in memory then.

    Raises:
        DataError: It is in another state than it was in, or a pipe or the like.
        OSError: It cannot be opened or read.
    """
    try:
        raw = io.FileIO(os.fspath(file), opener=_without_waiting)
    except OSError:
        if state_of(file) != state:
            raise _changed(file) from None
        raise
    with raw:
        found = os.fstat(raw.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise DataError("is no file", todo="check the path", where=str(file))
        if state_in(found) != state:
            raise _changed(file)
        if found.st_size > _AT_ONCE:
            yield io.BufferedReader(raw)
        else:
            yield io.BytesIO(raw.read(found.st_size + 1))


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe, which nobody may ever write to, too."""
    return os.open(path, flags | os.O_NONBLOCK)


def _changed(file: Path) -> DataError:
    return DataError("was changed while it was read", todo="read the data again", where=str(file))
