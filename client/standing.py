"""How a hospital's daemon stands, added up from what happened to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

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

State = Literal["starting", "connected", "idle", "working", "held", "disconnected", "stopped"]
WORKS: frozenset[State] = frozenset({"connected", "idle", "working"})
"""The states in which the daemon can do what it is there for."""


@dataclass(frozen=True)
class Standing:
    """How the daemon stands at one moment.

    Attributes:
        state: What it does.
        since: When that began, ISO 8601, UTC.
        started: When the daemon started, the same.
        address: Of the aggregator, once it was reached.
        reason: Why it is not connected, or holds a message.
        asked: The message that is being answered, or the last one.
        answered: Answers that the aggregator took, refusals apart.
        refused: Refusals.
        dropped: Messages that were given up.
        bytes_in: Of all messages that came.
        bytes_out: Of all answers that were about to leave.
        restarts: Workers that ended while they had a message.
    """

    state: State
    since: str
    started: str
    address: str = ""
    reason: str = ""
    asked: Asked | None = None
    answered: int = 0
    refused: int = 0
    dropped: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    restarts: int = 0


class Observer:
    """A listener that keeps the standing; it may be read from other threads."""

    def __init__(self, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._one = threading.Lock()
        at = self._time()
        self._standing = Standing("starting", since=at, started=at)

    def __call__(self, happening: Happening) -> None:
        """Take a happening in."""
        with self._one:
            before = self._standing
            after = _after(before, happening)
            if after.state != before.state:
                after = replace(after, since=self._time())
            self._standing = after

    @property
    def standing(self) -> Standing:
        """The present one."""
        with self._one:
            return self._standing

    def _time(self) -> str:
        return self._now().isoformat(timespec="milliseconds")


def _after(before: Standing, happening: Happening) -> Standing:
    match happening:
        case Connected(address):
            return replace(before, state="connected", address=address, reason="")
        case Disconnected(_, reason):
            return replace(before, state="disconnected", reason=reason)
        case Asked() as asked:
            size = before.bytes_in + asked.size
            return replace(before, state="working", reason="", asked=asked, bytes_in=size)
        case Leaving(_, size):
            size += before.bytes_out
            return replace(before, state="working", reason="", bytes_out=size)
        case Answered():
            return replace(before, state="connected", answered=before.answered + 1)
        case Refused():
            return replace(before, state="connected", refused=before.refused + 1)
        case Dropped():
            dropped = before.dropped + 1
            return replace(before, state="connected", reason="", dropped=dropped)
        case WorkerRestarted():
            return replace(before, restarts=before.restarts + 1)
        case Held(_, reason):
            return replace(before, state="held", reason=reason)
        case Idle():
            return replace(before, state="idle")
        case Stopped():
            return replace(before, state="stopped")
