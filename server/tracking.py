"""Trackers such as TensorBoard and MLflow beside a run, which never waits for one or fails by one.

Each tracker has a thread of its own. What it does not take at once is kept and tried again, later
and later; one line says so. A tracker that refuses to begin is told nothing more.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from fedward.server.events import Event
from fedward.server.tracked_values import Point, digests_of, points_of, settings_of
from fedward.study.errors import FedwardError, printable
from fedward.study.study import Study
from fedward.study.version import VERSION

Ending = Literal["finished", "failed", "stopped"]
Say = Callable[[str], None]


class TrackerAway(FedwardError):  # noqa: N818 - reads as the fact that it states
    """A tracker does not answer now; what it was told is kept."""


class TrackerRefused(FedwardError):  # noqa: N818 - reads as the fact that it states
    """A tracker answers, and does not take what it is told."""


@dataclass(frozen=True)
class About:
    """A run, as trackers are told of it.

    Attributes:
        name: What people call it.
        key: Never used by another run, so that a run that was taken up goes on in its place; None
            of a run that is never taken up.
        study: The study's name.
        settings: By dotted names.
        tags: Study's digest and version.
    """

    name: str
    key: str | None
    study: str
    settings: dict[str, str]
    tags: dict[str, str]


class Tracker(Protocol):
    """Where a run's figures go. Every method may be called again after it failed.

    Each raises `TrackerAway` if it may be tried again, and `TrackerRefused` if not.
    """

    label: str
    """What lines call it; never with a secret in it."""

    def begin(self, about: About) -> None:
        """A run begins, or is taken up."""

    def points(self, points: Sequence[Point]) -> None:
        """New figures."""

    def tags(self, tags: Mapping[str, str]) -> None:
        """New facts, such as digests."""

    def end(self, how: Ending) -> None:
        """The run ended, for now."""


@dataclass(frozen=True)
class Waits:
    """How patient the threads are, in seconds.

    Attributes:
        first: Before the first repetition; doubled each time.
        longest: That this grows to.
        end: For all that is still to be told when the run has ended.
    """

    first: float = 1.0
    longest: float = 60.0
    end: float = 30.0


class Tracking:
    """All trackers of one run, while it lasts.

    Args:
        study: Settled.
        trackers: None is fine.
        name: Of the run.
        key: See `About`.
        seed: Of the run.
        say: Told, in a line, of a tracker that does not work.
        waits: How patient.
    """

    def __init__(
        self,
        study: Study,
        trackers: Sequence[Tracker],
        *,
        name: str,
        key: str | None = None,
        seed: int,
        say: Say,
        waits: Waits | None = None,
    ) -> None:
        self._how: Ending = "failed"
        self._say = say
        self._waits = waits or Waits()
        tags = {"fedward.study": study.digest(), "fedward.version": VERSION}
        about = About(name, key, study.study.name, settings_of(study, seed), tags)
        self._feeders = [_Feeder(tracker, study, about, say, self._waits) for tracker in trackers]

    def __enter__(self) -> Tracking:
        """Nothing yet: the trackers begin with the first event, when the run has its folder."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The trackers end; of one that does not answer the rest is given up."""
        for feeder in self._feeders:
            feeder.end("failed" if kind is not None else self._how)
        for feeder in self._feeders:
            feeder.join_for(self._waits.end)

    def listen(self, event: Event) -> None:
        """A listener of the federation's events."""
        for feeder in self._feeders:
            feeder.tell((event, time.time()))

    def results(self, folder: Path) -> None:
        """The run finished; its folder has the results, whose digests are told."""
        self._how = "finished"
        if not self._feeders:
            return
        try:
            digests = {f"sha256.{name}": found for name, found in digests_of(folder).items()}
        except FedwardError as error:
            self._say(f"trackers are not told the results' digests ({error.line()})")
            return
        for feeder in self._feeders:
            feeder.tell(digests)

    def stopped(self) -> None:
        """The run ended without results, and may be taken up."""
        self._how = "stopped"


_Told = tuple[Event, float] | dict[str, str] | Ending


class _Feeder:
    """One tracker's thread."""

    def __init__(
        self, tracker: Tracker, study: Study, about: About, say: Say, waits: Waits
    ) -> None:
        self._tracker, self._study, self._about = tracker, study, about
        self._say, self._waits = say, waits
        self._queue: queue.SimpleQueue[_Told] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._failing = False
        self._refused = False
        self._given_up = False
        self._thread = threading.Thread(target=self._run, daemon=True, name=tracker.label)

    def tell(self, what: _Told) -> None:
        if not self._given_up:
            self._queue.put(what)
            if self._thread.ident is None:
                self._thread.start()

    def end(self, how: Ending) -> None:
        self._queue.put(how)
        self._closing.set()

    def join_for(self, seconds: float) -> None:
        if self._thread.ident is not None:
            self._thread.join(seconds)
        if self._thread.is_alive():
            self._tell(f"did not take everything within {seconds:g} s; the rest is lost")

    def _run(self) -> None:
        try:
            if not self._tried(lambda: self._tracker.begin(self._about)):
                self._given_up = True
            while not self._given_up:
                self._deliver(self._taken())
        except Exception as error:  # the run must go on, whatever a tracker's library does
            self._given_up = True
            self._tell(f"is left out from now on ({type(error).__name__}: {error})")

    def _taken(self) -> list[_Told]:
        """What there is to tell, at least one."""
        found = [self._queue.get()]
        while not self._queue.empty():
            found.append(self._queue.get())
        return found

    def _deliver(self, told: Sequence[_Told]) -> None:
        """In their order; figures that follow each other are one call."""
        points: list[Point] = []
        for what in told:
            if isinstance(what, tuple):
                points += points_of(what[0], self._study, what[1])
                continue
            self._send(points)
            points = []
            if isinstance(what, str):
                self._tried(partial(self._tracker.end, what))
                self._given_up = True
            else:
                self._tried(partial(self._tracker.tags, what))
        self._send(points)

    def _send(self, points: Sequence[Point]) -> None:
        if points:
            self._tried(partial(self._tracker.points, points))

    def _tried(self, call: Callable[[], None]) -> bool:
        """Whether it was taken, after many tries if need be; at the run's end, after one more."""
        wait = self._waits.first
        while not self._given_up:
            last = self._closing.is_set()
            try:
                call()
            except TrackerRefused as error:
                if not self._refused:
                    self._tell(f"refuses what it is told ({error.line()}); the run goes on")
                self._refused = True
                return False
            except TrackerAway as error:
                if not self._failing:
                    self._tell(f"does not answer ({error.line()}); the run goes on")
                self._failing = True
                if last:
                    self._tell("was not told everything; the rest is lost")
                    self._given_up = True
                self._closing.wait(wait)
                wait = min(2 * wait, self._waits.longest)
            else:
                if self._failing:
                    self._failing = False
                    self._tell("answers again")
                return True
        return False

    def _tell(self, what: str) -> None:
        self._say(printable(" ".join(f"{self._tracker.label} {what}".split()))[:600])
