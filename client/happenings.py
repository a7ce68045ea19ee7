"""What happens at a hospital's daemon, for its log, audit log, control socket and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fedward.study.errors import FedwardError


class NotLogged(FedwardError):  # noqa: N818 - reads as the fact that it states
    """What happened could not be written down, and may be another time: the disk is full."""


@dataclass(frozen=True)
class Connected:
    """The aggregator answers, for the first time or again."""

    address: str


@dataclass(frozen=True)
class Disconnected:
    """The aggregator does not answer any more, or for another reason than before.

    Attributes:
        error: Name of the error's class.
        reason: The error's line.
    """

    error: str
    reason: str


@dataclass(frozen=True)
class Asked:
    """A message has come, whole, and goes to the worker now.

    Attributes:
        kind: What is asked: `train`, `query.advertise`, ...
        study: Digest of the study; empty if the message names none.
        run: Name of the run, the same.
        round: 0 if the message is about no round.
        size: Bytes.
        digest: SHA-256 over all of the message, hexadecimal.
        model: SHA-256 of the model that it brings, hexadecimal; empty if it brings none.
    """

    kind: str
    study: str
    run: str
    round: int
    size: int
    digest: str
    model: str = ""


@dataclass(frozen=True)
class Leaving:
    """An answer is about to leave the hospital; it is not sent if a listener fails.

    Attributes:
        asked: What it answers.
        size: Bytes.
        digest: SHA-256 over all of the answer, hexadecimal.
        refused: Name of the error if it is a refusal, else empty.
    """

    asked: Asked
    size: int
    digest: str
    refused: str


@dataclass(frozen=True)
class Answered:
    """The aggregator has taken an answer that is no refusal.

    Attributes:
        asked: What it answers.
        size: Bytes that left the hospital.
        digest: SHA-256 over all of the answer, hexadecimal.
        seconds: From the question to here.
    """

    asked: Asked
    size: int
    digest: str
    seconds: float


@dataclass(frozen=True)
class Refused:
    """The aggregator has taken a refusal.

    Attributes:
        asked: What was refused.
        error: Name of the error.
        what: What is wrong, as the aggregator was told.
    """

    asked: Asked
    error: str
    what: str


@dataclass(frozen=True)
class Dropped:
    """A message, or an answer to it, was given up, because its run is over or it is not taken.

    Attributes:
        asked: The message; None if it did not come whole.
        reason: Why.
    """

    asked: Asked | None
    reason: str


@dataclass(frozen=True)
class WorkerRestarted:
    """The worker ended while it had a message; another one takes its place."""

    reason: str


@dataclass(frozen=True)
class Held:
    """A message, or an answer, waits: the audit log cannot be written, and is tried again.

    Attributes:
        asked: The message.
        reason: Why.
    """

    asked: Asked
    reason: str


@dataclass(frozen=True)
class Idle:
    """Nothing has come for a while, so the daemon asks more slowly."""


@dataclass(frozen=True)
class Stopped:
    """The daemon has ended; nothing happens after this."""


Happening = (
    Connected
    | Disconnected
    | Asked
    | Leaving
    | Answered
    | Refused
    | Dropped
    | WorkerRestarted
    | Held
    | Idle
    | Stopped
)
Listener = Callable[[Happening], None]
"""Is told in the daemon's own thread, in order. Nothing is done that the audit log does not hold:
after `NotLogged` the daemon waits and tells the same again; any other error ends it."""
