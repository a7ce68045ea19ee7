"""A file from somebody else that a command is given: its faults are told with its name."""

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
