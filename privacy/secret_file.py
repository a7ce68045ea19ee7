"""A file that only its owner may read: written whole or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from fedward.privacy.whole_file import keep_names


def write_secret(
    path: Path, secret: bytes | memoryview, *, over: bool = False, wait: bool = True
) -> None:
    """Write a file for its owner alone, beside its place and then into it: nobody reads half of it.

    Args:
        path: The file, in a folder that is there.
        secret: What it is to hold.
        over: Take the place of what is there; otherwise of two that write at once one fails.
        wait: Until it is on the disk. Without that a power cut may leave nothing, or an empty file.

    Raises:
        FileExistsError: Something is at that path already, and may not be written over.
        OSError: It cannot be written; what was there before is unchanged.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(file, "wb") as handle:
            handle.write(secret)
            handle.flush()
            if wait:
                os.fsync(handle.fileno())
        if over:
            aside.replace(path)
        else:
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    if wait:
        keep_names(path.parent)
