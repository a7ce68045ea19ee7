"""Files that are there after a power cut, whole: written beside, forced to the disk, renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
    """Replace a file; whoever reads it sees the old content or the new, also after a power cut."""
    aside = aside_of(path)
    try:
        write_to_disk(aside, content)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def aside_of(path: Path) -> Path:
    """A name beside a file that no other process takes at the same time."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


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


def write_to_disk(path: Path, content: bytes) -> None:
    """Write a file that nobody reads yet; when this returns, it is on the disk."""
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Force a folder's entries, such as a rename in it, to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def cannot_write(path: Path, error: OSError) -> RunPaused:
    """The error for a disk that is full or gone: what was written before is still whole."""
    return RunPaused(
        f"cannot be written ({error.strerror})",
        todo="free the disk, then resume the run",
        where=str(path),
    )
