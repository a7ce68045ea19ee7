"""The hospital's daemon: it asks the aggregator for work, has it done, and gives the answer.

It opens no port. It holds the line (`FleetConnection`) and a worker process that holds everything
else; whichever of them breaks is taken up again, for ever, while the other one goes on.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from fedward.client.fleet import HEARTBEAT_SECONDS, FleetConnection, refuse_untested_flower
from fedward.client.fleet_errors import FleetError, MessageRefused, RunOver
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
    Listener,
    NotLogged,
    Refused,
    Stopped,
    WorkerRestarted,
)
from fedward.client.hospital import Consortium, DaemonSettings, read_hospital, refuse_pretended
from fedward.client.letter import Letter, reply_to
from fedward.client.worker import Worker, WorkerLost, could_not_finish
from fedward.privacy.transport import TransportKey
from fedward.study.errors import DataError, HospitalError
from fedward.study.wire import pack_answer

_LOG = logging.getLogger("fedward.client")
_SHARE = 0.05  # of the time since the last message that may pass until the next question
_SPARED = 0.75  # of the shorter of the last two waits for a message: none is expected that early,
_MOST_SPARED = 0.25  # seconds, and hospitals that ask in vain slow down the aggregator for all
_NODE = "node"  # file in the folder of state
_MOST_ROUNDS = 2**31  # a round's number in the control socket's messages, and then some
_WAITED_FOR_NO_MORE = "nobody waits for its answer any more"
_FIRST_PAUSE = 0.25  # seconds until the second try to connect, about


class Line(Protocol):
    """What the daemon needs of a `FleetConnection`."""

    address: str

    def activate(self) -> int:
        """Say that this hospital is here."""

    def heartbeat(self) -> None:
        """Say that it still is."""

    def receive(self) -> Letter | None:
        """The next message, or None."""

    def send(self, letter: Letter, seconds: float = 0.0) -> None:
        """Give an answer."""

    def close(self) -> None:
        """Close it."""


class Hand(Protocol):
    """What the daemon needs of a `Worker`."""

    def start(self) -> None:
        """Get ready."""

    def ask(self, letter: Letter, seconds: float) -> Letter:
        """Answer a message within so many seconds."""

    def kill(self, why: str) -> None:
        """End at once."""

    def stop(self) -> None:
        """End."""


@dataclass(frozen=True)
class _Due:
    """An answer that the aggregator does not have yet.

    Attributes:
        asked: What it answers.
        letter: The answer.
        since: When the question came, by the daemon's clock.
        seconds: How long it took to find.
        over: When nobody waits for it any more, by the same clock.
    """

    asked: Asked
    letter: Letter
    since: float
    seconds: float
    over: float


class Daemon:
    """The loop between a line and a worker."""

    def __init__(
        self,
        hospital: str,
        line: Line,
        worker: Hand,
        settings: DaemonSettings,
        listeners: Iterable[Listener] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        """Nothing is started yet.

        Args:
            hospital: Its name, for refusals in the worker's stead.
            line: To the aggregator.
            worker: Who answers.
            settings: How often to ask.
            listeners: Who is told what happens.
            clock: Seconds from any start.
            sleep: Waits so many seconds, or until the daemon is stopped.
        """
        self._hospital = hospital
        self._line = line
        self._worker = worker
        self._settings = settings
        self._listeners = tuple(listeners)
        self._clock = clock
        self._stopped = threading.Event()
        self._sleep = self._stopped.wait if sleep is None else sleep
        self._grace: threading.Timer | None = None
        self._state: str | None = None  # "" while connected, else the name of the error
        self._failures = 0
        self._idle = False
        self._last = clock()  # when something came, or might have, last
        self._waited: deque[float] = deque([0.0, 0.0], maxlen=2)  # for the last messages, seconds
        self._due: _Due | None = None

    def run(self) -> None:
        """Serve until `stop` is called.

        Raises:
            Exception: A listener failed.
        """
        try:
            with self._heart():
                self._worker.start()
                while not self._stopped.is_set():
                    try:
                        self._line.activate()
                        self._serve()
                    except FleetError as error:
                        self._disconnected(error)
                        self._drop_what_is_over()
                        self._sleep(self._pause(self._failures))
                        self._failures += 1
        finally:
            if self._grace is not None:
                self._grace.cancel()
            self._worker.stop()
            self._line.close()
        self._tell(Stopped())

    def stop(self, grace: float = 60.0) -> None:
        """End soon; may be called from another thread or from a signal.

        Args:
            grace: Seconds that the present message may still take; then it is refused.
        """
        if self._grace is None:
            self._grace = threading.Timer(grace, self._worker.kill, ["the daemon was stopped"])
            self._grace.daemon = True
            self._grace.start()
        self._stopped.set()

    def _serve(self) -> None:
        """Ask and answer until the line is cut or the daemon stopped."""
        self._deliver()
        while not self._stopped.is_set():
            letter = self._next()
            self._connected()
            if letter is None:
                self._sleep(self._wait())
                continue
            self._waited.append(self._clock() - self._last)
            self._answer(letter)
            self._deliver()
            self._last, self._idle = self._clock(), False

    def _next(self) -> Letter | None:
        try:
            return self._line.receive()
        except (RunOver, MessageRefused) as error:
            self._tell(Dropped(None, error.line()))
            return None

    def _answer(self, letter: Letter) -> None:
        asked, since = _asked(letter), self._clock()
        over = since + letter.seconds
        if not self._told(asked, asked, over):
            return
        left = over - self._clock()
        if left <= 0:
            self._tell(Dropped(asked, _WAITED_FOR_NO_MORE))
            return
        try:
            answer = self._worker.ask(letter, left)
        except WorkerLost as error:
            self._tell(WorkerRestarted(error.what))
            answer = reply_to(letter, pack_answer(could_not_finish(self._hospital)))
            if not self._stopped.is_set():
                self._worker.start()
        refused = _printable(answer.terms.get("error"))
        if not self._told(Leaving(asked, answer.size, answer.digest, refused), asked, over):
            return
        self._due = _Due(asked, answer, since, self._clock() - since, over)

    def _told(self, happening: Happening, asked: Asked, over: float) -> bool:
        """Tell what the audit log must hold before anything goes on, as soon as it can.

        Args:
            happening: What came, or is about to leave.
            asked: What came.
            over: When nobody waits for the answer any more.

        Returns:
            Whether it was told; else the message is given up.
        """
        tries = 0
        while True:
            try:
                self._tell(happening)
            except NotLogged as error:
                if not tries:
                    self._tell(Held(asked, error.line()))
            else:
                return True
            if self._stopped.is_set() or self._clock() >= over:
                self._tell(Dropped(asked, "the audit log could not be written"))
                return False
            self._sleep(self._pause(tries))
            tries += 1

    def _deliver(self) -> None:
        """Give the answer that is due; it stays due if the line is cut."""
        due = self._due
        if due is None:
            return
        try:
            self._line.send(due.letter, due.seconds)
        except (RunOver, MessageRefused) as error:
            self._due = None
            self._tell(Dropped(due.asked, error.line()))
            return
        self._due = None
        terms = due.letter.terms
        if "error" in terms:
            self._tell(Refused(due.asked, str(terms["error"]), str(terms.get("what", ""))))
            return
        passed = self._clock() - due.since
        self._tell(Answered(due.asked, due.letter.size, due.letter.digest, passed))

    def _drop_what_is_over(self) -> None:
        """An answer that is waited for no more is not tried again, whatever keeps it here."""
        due = self._due
        if due is not None and self._clock() >= due.over:
            self._due = None
            self._tell(Dropped(due.asked, _WAITED_FOR_NO_MORE))

    def _wait(self) -> float:
        """Seconds until the next question: a small share of the time since the last message.

        So a wait hardly lengthens a round, and a long one costs the aggregator few questions.
        """
        fast, slow = self._settings.poll_seconds, self._settings.idle_seconds
        passed = self._clock() - self._last
        spared = min(_SPARED * min(self._waited), _MOST_SPARED)
        wait = max(fast, passed * _SHARE, spared - passed)
        if wait >= slow and not self._idle:
            self._idle = True
            self._tell(Idle())
        return min(wait, max(fast, slow))

    def _pause(self, tries: int) -> float:
        """Seconds until the next try: twice as long each time, and never the same for everybody."""
        longest = self._settings.longest_pause_seconds
        pause = min(longest, _FIRST_PAUSE * 2.0 ** min(tries, 30))
        return pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def _connected(self) -> None:
        self._failures = 0
        if self._state != "":
            self._state = ""
            self._last, self._idle = self._clock(), False  # a round may be near
            self._tell(Connected(self._line.address))

    def _disconnected(self, error: FleetError) -> None:
        kind = type(error).__name__
        if self._state != kind:
            self._state = kind
            self._tell(Disconnected(kind, error.line()))

    def _tell(self, happening: Happening) -> None:
        for listener in self._listeners:
            listener(happening)

    @contextmanager
    def _heart(self) -> Iterator[None]:
        """A heartbeat in a thread of its own, also while the worker trains or a model travels."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS * random.uniform(0.7, 0.9)):  # noqa: S311
                if self._state == "":
                    try:
                        self._line.heartbeat()
                    except FleetError as error:  # the loop meets it too, and tells
                        _LOG.debug("no heartbeat: %s", error)

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()


def _asked(letter: Letter) -> Asked:
    terms = letter.terms
    study, run, number = (terms.get(key) for key in ("study", "run", "round"))
    return Asked(
        kind=_printable(letter.kind),
        study=_printable(study),
        run=_printable(run),
        round=number if type(number) is int and 0 <= number < _MOST_ROUNDS else 0,
        size=letter.size,
        digest=letter.digest,
        model=letter.model,
    )


def _printable(claimed: object) -> str:
    """A text from the network, fit for a log."""
    return "".join(c for c in claimed if c.isprintable())[:200] if isinstance(claimed, str) else ""


def make_daemon(hospital_path: Path, listeners: Iterable[Listener] = ()) -> Daemon:
    """The daemon of a hospital, not started.

    Args:
        hospital_path: Its `hospital.toml`.
        listeners: Who is told what happens.

    Raises:
        HospitalError: The file is wrong, or names no aggregator.
        OptionError: Its noise would have a seed.
        DataError: The transport key or the certificate authority cannot be read.
        UntestedFlower: The installed Flower is not the one that this was tested with.
    """
    refuse_untested_flower()
    path = hospital_path.resolve()
    hospital = read_hospital(path)
    refuse_pretended(hospital, path)
    consortium = hospital.consortium
    if consortium is None or consortium.address is None:
        raise HospitalError(
            "consortium.address",
            given="nothing",
            allowed="host:port of the aggregator, as `fedward hospital enroll` writes it",
            file=path,
        )
    return Daemon(
        hospital.name,
        _line(consortium, path.parent, consortium.address, path.parent / hospital.state),
        Worker(path, deadline=hospital.daemon.deadline_seconds),
        hospital.daemon,
        listeners,
    )


def _line(consortium: Consortium, folder: Path, address: str, state: Path) -> FleetConnection:
    ca = folder / (consortium.ca or "")
    key = TransportKey.load(folder / (consortium.transport or "")).key
    try:
        authority = ca.read_bytes()
    except OSError as error:
        raise DataError(
            f"the consortium's certificate authority cannot be read ({error.strerror})",
            todo="enrol, or ask the coordinator for it",
            where=str(ca),
        ) from None
    return FleetConnection(address, authority, key, node=state / _NODE)
