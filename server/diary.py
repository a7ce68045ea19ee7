"""The service's own log: JSON lines, and nothing of a patient or of a message's content in them."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TextIO

_LARGEST = 16 << 20
_KEPT = 4


class Diary:
    """Writes events to a file that is rotated at 16 MiB, and to a stream.

    Args:
        path: The file.
        stream: Such as standard error, where systemd and Docker read; none if None.
    """

    def __init__(self, path: Path, stream: TextIO | None = None) -> None:
        self._file = rotated(path)
        self._stream = stream

    def tell(self, event: str, **fields: str | int | float | None) -> None:
        """One line: when, what, and its fields."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"at": at, "event": event, **fields}, ensure_ascii=False)
        _emit(self._file, line)
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk, a pipe that was closed
                self._stream.write(f"{line}\n")
                self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Overheard:
    """What a child process says, in a file that is rotated while it runs.

    Args:
        path: The file.

    Attributes:
        sink: For the child's standard output.
    """

    def __init__(self, path: Path) -> None:
        self._file = rotated(path)
        source, self.sink = os.pipe()
        self._thread = threading.Thread(target=self._copy, args=(source,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End when no child holds the other end any more."""
        os.close(self.sink)
        self._thread.join(5)
        self._file.close()

    def _copy(self, source: int) -> None:
        with os.fdopen(source, "r", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                _emit(self._file, line.rstrip("\n"))


class _Quiet(RotatingFileHandler):
    """On a full disk lines are lost, and nothing else happens."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """No traceback for each of them."""


def rotated(path: Path) -> RotatingFileHandler:
    """A log file that only its owner can read, and that does not grow for ever."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    return _Quiet(path, maxBytes=_LARGEST, backupCount=_KEPT, encoding="utf-8")


def _emit(handler: logging.Handler, line: str) -> None:
    handler.handle(logging.LogRecord("fedward", logging.INFO, "", 0, line, None, None))
