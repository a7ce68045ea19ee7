"""A happening in words and in values: what logs say, and what those who watch are shown.

Nothing of a patient's is in a happening, so nothing can get out of it here.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Disconnected,
    Dropped,
    Happening,
    Held,
    Idle,
    Leaving,
    Refused,
    Stopped,
    WorkerRestarted,
)

_SHOWN = 12  # digits of a digest in a sentence
Value = str | int | float


@dataclass(frozen=True)
class Report:
    """One happening, told.

    Attributes:
        kind: Name of the happening, in small letters.
        level: As in `logging`.
        text: One line for people.
        values: For programs.
    """

    kind: str
    level: int
    text: str
    values: Mapping[str, Value]


def report(happening: Happening) -> Report:
    """Tell a happening."""
    level, text, values = _told(happening)
    return Report(type(happening).__name__.lower(), level, " ".join(text.split()), values)


def _told(happening: Happening) -> tuple[int, str, dict[str, Value]]:
    match happening:
        case Connected(address):
            return logging.INFO, f"connected to {address}", {"address": address}
        case Disconnected(error, reason):
            return logging.WARNING, f"not connected: {reason}", {"error": error, "reason": reason}
        case Asked() as asked:
            text = f"asked to {_named(asked)} ({asked.size:,} bytes)"
            return logging.INFO, text, {**_values(asked), "bytes": asked.size}
        case Leaving(asked, size, digest, refused):
            values: dict[str, Value] = {**_values(asked), "bytes": size, "sha256": digest}
            text = f"the answer to {_named(asked)} leaves: {size:,} bytes, SHA-256 {digest}"
            return logging.DEBUG, text, {**values, "refused": refused} if refused else values
        case Answered(asked, size, digest, seconds):
            values = {**_values(asked), "bytes": size, "sha256": digest}
            text = f"answered {_named(asked)} in {seconds:.2f} s ({size:,} bytes)"
            return logging.INFO, text, {**values, "seconds": round(seconds, 3)}
        case Refused(asked, error, what):
            values = {**_values(asked), "error": error, "reason": what}
            return logging.WARNING, f"refused {_named(asked)}: {error}: {what}", values
        case Dropped(asked, reason):
            named = "a message" if asked is None else _named(asked)
            values = {} if asked is None else _values(asked)
            return logging.WARNING, f"gave up {named}: {reason}", {**values, "reason": reason}
        case WorkerRestarted(reason):
            return logging.ERROR, f"{reason}; another takes its place", {"reason": reason}
        case Held(asked, reason):
            values = {**_values(asked), "reason": reason}
            return logging.ERROR, f"{_named(asked)} is held: {reason}", values
        case Idle():
            return logging.INFO, "idle: asks more slowly", {}
        case Stopped():
            return logging.INFO, "stopped", {}


def _named(asked: Asked) -> str:
    words = [asked.kind]
    if asked.round:
        words.append(f"round {asked.round}")
    if asked.run:
        words.append(f"of run {asked.run}")
    if asked.study:
        words.append(f"of study {asked.study[:_SHOWN]}")
    return " ".join(words)


def _values(asked: Asked) -> dict[str, Value]:
    return {
        "message": asked.kind,
        **({"study": asked.study} if asked.study else {}),
        **({"run": asked.run} if asked.run else {}),
        **({"round": asked.round} if asked.round else {}),
    }
