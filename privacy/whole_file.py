"""Files that are there after a power cut, whole: written beside, forced to the disk, renamed."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

OWNERS = 0o600
EVERYBODYS = 0o644


def write_whole(path: Path, content: bytes, *, mode: int = EVERYBODYS) -> None:
    """Replace a file; whoever reads it sees the old content or the new, also after a power cut.

    Args:
        path: The file.
        content: What it is to hold.
        mode: Who may use it, less what the process takes from new files (its umask).

    Raises:
        OSError: It cannot be written; what was there before is unchanged.
    """
    # A name that no other process takes at the same time.
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_to_disk(aside, content, mode=mode)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    keep_names(path.parent)


def write_to_disk(path: Path, content: bytes, *, mode: int = EVERYBODYS) -> None:
    """Write a file that nobody reads yet; when this returns, it is on the disk.

    Raises:
        OSError: It cannot be written.
    """
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def keep_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk: a rename is not until then.

    Raises:
        OSError: The disk does not take them.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
