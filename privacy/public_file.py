"""A public document in a file: written whole or not at all, and read only up to a size."""

from __future__ import annotations

from pathlib import Path

from fedward.privacy.whole_file import write_whole
from fedward.study.errors import DataError


def write_public(path: Path, content: bytes) -> None:
    """Write beside the file, wait for the disk, then rename: nobody ever sees half of it.

    Raises:
        DataError: It cannot be written; what was there before is unchanged.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise DataError(
            f"cannot be written ({error.strerror})",
            todo="look at the folder, its owner and the room on the disk",
            where=str(path),
        ) from None


def read_public(path: Path, *, what: str, largest: int, todo: str = "check the path") -> bytes:
    """A file's content; of one that is too large only so much that its reader refuses it.

    Args:
        path: The file.
        what: What it should be, for the error message.
        largest: Bytes.
        todo: What to do if it cannot be read.

    Raises:
        DataError: It cannot be read.
    """
    try:
        with path.open("rb") as handle:
            return handle.read(largest + 1)
    except OSError as error:
        raise DataError(
            f"no {what} can be read here ({error.strerror})", todo=todo, where=str(path)
        ) from None
