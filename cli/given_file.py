"""A file that a command is given: what is wrong with it is told with its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedward.privacy.protocol_errors import ProtocolError
from fedward.study.errors import DataError


@contextmanager
def faults_of(path: Path) -> Iterator[None]:
    """Tell what is wrong with a document as an error about its file.

    Raises:
        DataError: In place of a ProtocolError, or of a DataError that names no file.
    """
    try:
        yield
    except ProtocolError as error:
        raise DataError(error.what, todo=error.todo, where=str(path)) from None
    except DataError as error:
        raise DataError(error.what, todo=error.todo, where=error.where or str(path)) from None


def content_of(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", todo="check the path", where=str(path)
        ) from None
