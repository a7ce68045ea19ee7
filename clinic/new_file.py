"""A new file that somebody names: nothing is overwritten, and half of one is never there."""

from __future__ import annotations

from pathlib import Path

from fedward.privacy.whole_file import EVERYBODYS, write_whole
from fedward.study.errors import OptionError


def refuse_place(out: Path) -> None:
    """Accept a place for a new file, by returning.

    Raises:
        OptionError: There is something already, or no folder.
    """
    if out.exists() or out.is_symlink():
        raise OptionError("is there already", todo="give another --out", where=str(out))
    if not out.parent.is_dir():
        raise OptionError("its folder is not there", todo="make the folder first", where=str(out))


def write_new(out: Path, content: bytes, *, mode: int = EVERYBODYS) -> None:
    """Write the file, whole.

    Args:
        out: The file.
        content: What it is to hold.
        mode: Who may use it, less the process's umask.

    Raises:
        OptionError: It cannot be written.
    """
    try:
        write_whole(out, content, mode=mode)
    except OSError as error:
        raise OptionError(
            f"cannot be written ({error.strerror})", todo="give another --out", where=str(out)
        ) from None
