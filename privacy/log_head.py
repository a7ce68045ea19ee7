"""A small file beside a log that says how many lines it has: an end that was cut off is noticed.

It is written after the line is on disk, so the log may be ahead of its head and never behind.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from fedward.privacy.secret_file import write_secret
from fedward.privacy.signed_json import canonical

Refuse = Callable[[int, str], NoReturn]
"""Raises the log's own error: the number of the first line that does not fit, and why."""


def head_of(log: Path) -> Path:
    """Where the head of a log is."""
    return log.with_name(f"{log.name}.head")


def write_head(log: Path, number: int, last: str) -> None:
    """Not waited for: a head that a power cut sets back still is one of this log.

    Args:
        log: The log's file.
        number: Of its last line, from 1.
        last: That line's hash, hexadecimal.

    Raises:
        OSError: It cannot be written.
    """
    head = canonical({"hash": last, "lines": number})
    write_secret(head_of(log), head, over=True, wait=False)


def check_head(log: Path, hashes: Sequence[str], refuse: Refuse, *, required: bool) -> None:
    """Accept a log that has at least the lines that its head knows of, by returning.

    Args:
        log: The log's file.
        hashes: Of each of its lines.
        refuse: Called if it does not.
        required: Whether the head must be there.
    """
    name = head_of(log).name
    try:
        head = json.loads(head_of(log).read_bytes())
        count, last = int(head["lines"]), str(head["hash"])
    except FileNotFoundError:
        if not required:
            return
        refuse(len(hashes), f"nobody can tell whether it is the last: {name} is missing")
    except (OSError, ValueError, KeyError, TypeError):
        refuse(len(hashes), f"{name} beside it cannot be read")
    if count > len(hashes):
        refuse(len(hashes) + 1, f"it is missing, and so is all up to line {count}")
    if count < 1 or hashes[count - 1] != last:
        refuse(max(count, 1), f"{name} knows another one")
