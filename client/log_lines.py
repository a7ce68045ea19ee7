"""The lines that a hospital's daemon and its worker write to standard error.

An error about data may quote a patient's record. Such words go to one file in the hospital's state
folder, readable by its owner alone; the line on standard error, which systems collect and send
on, says only what kind of error it was and where the rest is.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from fedward.client.happenings import Happening
from fedward.client.hospital import read_hospital
from fedward.client.report import report
from fedward.study.errors import DataError, FedwardError

JSON_VARIABLE = "FEDWARD_JSON_LOG"
"""Environment variable that makes lines JSON, for the worker too."""

TROUBLE = "trouble.log"
_LARGEST = 1 << 20  # bytes of that file; one older is kept
_EVENTS = logging.getLogger("fedward.daemon")
_TEXT = "%(asctime)s %(levelname)s %(message)s"


def write_happening(happening: Happening) -> None:
    """A listener that logs."""
    told = report(happening)
    _EVENTS.log(told.level, "%s", told.text, extra={"event": told.kind, "values": told.values})


def configure_log() -> None:
    """Lines of the daemon's own process, as the environment says."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines() if os.environ.get(JSON_VARIABLE) else _TextLines(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("fedward").setLevel(logging.INFO)


def configure_worker_log(hospital_path: Path) -> None:
    """Lines of the worker, which meets patients' records; whole errors go to the file.

    Args:
        hospital_path: The `hospital.toml`.
    """
    configure_log()
    state = hospital_path.parent / read_hospital(hospital_path).state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = _OwnersFile(state / TROUBLE, maxBytes=_LARGEST, backupCount=1, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_TEXT))
    logging.getLogger("fedward").addHandler(handler)


class _OwnersFile(RotatingFileHandler):
    """A file that nobody but its owner reads, from its first byte on."""

    def _open(self) -> TextIOWrapper:
        file = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return TextIOWrapper(os.fdopen(file, "ab"), encoding="utf-8", write_through=True)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: on a full disk logging would tell standard error what belongs here only."""


class _TextLines(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without what may quote a record."""
        return " ".join(super().format(_guarded(record)).split())


class _JsonLines(logging.Formatter):
    """For programs: one JSON object in each line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without what may quote a record."""
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": _guarded(record).getMessage(),
            **({"event": record.event} if hasattr(record, "event") else {}),
            **getattr(record, "values", {}),
        }
        return json.dumps(line)


def _guarded(record: logging.LogRecord) -> logging.LogRecord:
    """The same record, in which errors that may quote a patient's record say nothing."""
    args = record.args if isinstance(record.args, tuple) else ()
    values = {**vars(record), "exc_info": None, "exc_text": None, "stack_info": None}
    if isinstance(record.args, tuple):
        values["args"] = tuple(_quotable(value) for value in args)
    return logging.makeLogRecord(values)


def _quotable(value: object) -> object:
    quotes = isinstance(value, DataError) or not isinstance(value, FedwardError)
    if isinstance(value, BaseException) and quotes:
        return f"what it says is in {TROUBLE} of the state folder"
    return value
