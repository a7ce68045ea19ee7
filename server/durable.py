"""The aggregator's files: whole after a power cut, and changed by one process at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedward.privacy.whole_file import OWNERS, write_whole
from fedward.server.run_errors import RunPaused


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file of a run, as `write_aside` does.

    Raises:
        RunPaused: The disk does not take it; the old content is still there.
    """
    try:
        write_aside(path, content)
    except OSError as error:
        raise cannot_write(path, error) from None


def write_aside(path: Path, content: bytes) -> None:
    """Replace a file of the aggregator's: whole or not at all, and for its owner alone.

    Raises:
        OSError: It cannot be written; the old content is still there.
    """
    write_whole(path, content, mode=OWNERS)


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other process, and no other such block, holds the folder.

    Raises:
        OSError: The folder's lock cannot be made.
    """
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        yield


def write_json(document: dict[str, Any], path: Path) -> None:
    """A JSON document, whole or not at all."""
    write_aside(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def cannot_write(path: Path, error: OSError) -> RunPaused:
    """The error for a disk that is full or gone: what was written before is still whole."""
    return RunPaused(
        f"cannot be written ({error.strerror})",
        todo="free the disk, then resume the run",
        where=str(path),
    )
