"""The daemon's listener that keeps the audit log: what came, and what leaves, before it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedward.client.happenings import Asked, Happening, Leaving
from fedward.client.spending import noted
from fedward.privacy.audit_log import AuditLog
from fedward.study.messages import TRAIN

LOG = "audit.jsonl"


class Auditing:
    """Writes a line for each message in and each answer out; an error of it stops the daemon."""

    def __init__(self, log: AuditLog, data: str, state: Path) -> None:
        """Take an open log.

        Args:
            log: The hospital's.
            data: Name of its data set.
            state: Its folder of state, where the worker notes what was spent.
        """
        self._log, self._data, self._state = log, data, state

    def __call__(self, happening: Happening) -> None:
        """Write a line if a message came or is about to leave."""
        match happening:
            case Asked() as asked:
                self._log.append(
                    asked.kind,
                    "in",
                    **_about(asked),
                    size=asked.size,
                    sha256=asked.digest,
                    model=asked.model or None,
                )
            case Leaving(asked, size, digest, refused):
                self._log.append(
                    asked.kind,
                    "out",
                    **_about(asked),
                    size=size,
                    sha256=digest,
                    refused=refused,
                    epsilon=self._epsilon(asked),
                )
            case _:
                pass

    def _epsilon(self, asked: Asked) -> float | None:
        """Charged so far, if this run is one that charges."""
        counted = noted(self._state).get(self._data) if asked.kind == TRAIN else None
        if counted is None or (counted.study, counted.run) != (asked.study, asked.run):
            return None
        return counted.epsilon


def _about(asked: Asked) -> dict[str, Any]:
    return {"study": asked.study, "run": asked.run, "round": asked.round}
