"""The daemon's listener that keeps the audit log: what came, and what leaves, before it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedward.client.happenings import Asked, Happening, Leaving, NotLogged
from fedward.client.spending import noted
from fedward.privacy.audit_log import AuditLog, Direction
from fedward.study.errors import DataError
from fedward.study.messages import TRAIN

LOG = "audit.jsonl"


class Auditing:
    """Writes a line for each message in and each answer out; without it nothing goes on."""

    def __init__(self, log: AuditLog, data: str, state: Path) -> None:
        """Take an open log.

        Args:
            log: The hospital's.
            data: Name of its data set.
            state: Its folder of state, where the worker notes what was spent.
        """
        self._log, self._data, self._state = log, data, state

    def __call__(self, happening: Happening) -> None:
        """Write a line if a message came or is about to leave.

        Raises:
            NotLogged: The disk does not take it, and the log is as it was.
            BrokenLog: It could not be read again, and the log is as it was.
        """
        match happening:
            case Asked() as asked:
                said = {"size": asked.size, "sha256": asked.digest, "model": asked.model or None}
                self._write(asked, "in", said)
            case Leaving(asked, size, digest, refused):
                epsilon = self._epsilon(asked)
                said = {"size": size, "sha256": digest, "refused": refused, "epsilon": epsilon}
                self._write(asked, "out", said)
            case _:
                pass

    def _write(self, asked: Asked, direction: Direction, said: dict[str, Any]) -> None:
        about = {"study": asked.study, "run": asked.run, "round": asked.round}
        try:
            self._log.append(asked.kind, direction, **about, **said)
        except DataError as error:
            raise NotLogged(error.what, todo=error.todo, where=error.where) from None

    def _epsilon(self, asked: Asked) -> float | None:
        """Charged so far, if this run is one that charges."""
        counted = noted(self._state).get(self._data) if asked.kind == TRAIN else None
        if counted is None or (counted.study, counted.run) != (asked.study, asked.run):
            return None
        return counted.epsilon
