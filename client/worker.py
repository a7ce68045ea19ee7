"""The process that holds the models and the records, and answers messages.

It is a child of the daemon: a crash, an exhausted memory or a message that takes too long ends it
alone, and another one takes its place. Keys and ledger are files, so nothing is lost with it.
Between the two runs a pipe of plain bytes; nothing that came from the network is unpickled.

    python -m fedward.client.worker HOSPITAL_TOML PIPE PARENT
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

from flwr.app import Context, RecordDict

from fedward.client.letter import CHUNK_VARIABLE, Letter, pack_reply, reply_to, unpack
from fedward.client.log_lines import configure_worker_log
from fedward.study.errors import TrainingError
from fedward.study.freed_memory import FREED_STAYS
from fedward.study.messages import Refusal
from fedward.study.wire import pack_answer

_LOG = logging.getLogger("fedward.client")
_CHUNK = 8 * 2**20  # bytes; measured on models of 10^7 parameters
_WATCH = 2.0  # seconds between two looks whether the daemon still lives
_START = 600.0  # seconds that the process may need to load its libraries
_READY = b"ready"
_LAST = 5.0  # seconds that a stopped worker has to go by itself


class WorkerLost(TrainingError):  # noqa: N818 - reads as the fact that it states
    """The worker ended while it had a message."""


def could_not_finish(hospital: str) -> Refusal:
    """What the server is told of a failure whose cause may hold a patient's data."""
    return Refusal(hospital, TrainingError.__name__, "could not finish", "see its own log")


class Worker:
    """The daemon's handle of the process; `ask` starts it if it is not there."""

    def __init__(self, hospital: Path, *, deadline: float) -> None:
        """Nothing is started yet.

        Args:
            hospital: The `hospital.toml`.
            deadline: Seconds that one message may take.
        """
        self._hospital = hospital.resolve()
        self._deadline = deadline
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._why = ""
        self._ready = False

    @property
    def pid(self) -> int | None:
        """The number of the process, or None if there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process, if there is none; it gets ready while others go on.

        If it cannot be started now (no memory, no process left), that is logged; `ask` tries again.
        """
        try:
            self._begin()
        except OSError as error:
            _LOG.error("the worker cannot be started (%s)", error.strerror)

    def _begin(self) -> None:
        """Start the process, if there is none.

        Raises:
            OSError: The system gives none.
        """
        if self.pid is not None:
            return
        self._drop()
        self._process = None
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as unless_begun:
            unless_begun.callback(ours.close)
            self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [
                    *(sys.executable, "-P", "-m", "fedward.client.worker"),
                    *(str(self._hospital), str(theirs.fileno()), str(os.getpid())),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**FREED_STAYS, **os.environ, CHUNK_VARIABLE: str(_CHUNK)},
            )
            unless_begun.pop_all()
        self._pipe = Connection(ours.detach())
        self._why, self._ready = "", False

    def ask(self, letter: Letter, seconds: float = math.inf) -> Letter:
        """Let the process answer.

        Args:
            letter: The question.
            seconds: For how long anybody waits for it, above 0; the deadline may be shorter.

        Raises:
            WorkerLost: It ended, or was ended because it took longer than it may, or cannot be
                started.
        """
        most = min(self._deadline, seconds)
        try:
            self._begin()
            with self._alarm(_START, "it needed longer to start"):
                pipe = self._await_ready()
            began = time.monotonic()
            with self._alarm(most, "it took longer"):
                pipe = self._give(letter, pipe)
                answer = Letter.read(pipe.recv_bytes)
            if time.monotonic() - began > most:  # the alarm may be late; the deadline is not
                self.kill(f"it took longer than {most:g} s")
                raise EOFError
            return answer
        except (EOFError, OSError) as error:
            if self._process is None:
                what = f"the worker cannot be started ({error})"
                raise WorkerLost(what, todo="see this hospital's log") from None
            raise WorkerLost(self._end(), todo="see this hospital's log") from None

    @contextmanager
    def _alarm(self, seconds: float, why: str) -> Iterator[None]:
        """End the process if this lasts longer."""
        alarm = threading.Timer(seconds, self.kill, [f"{why} than {seconds:g} s"])
        alarm.daemon = True
        alarm.start()
        try:
            yield
        finally:
            alarm.cancel()

    def _give(self, letter: Letter, pipe: Connection) -> Connection:
        """Hand the question over; a process that had ended before is not this question's fault."""
        try:
            _send(letter, pipe)
        except OSError:
            if self._why:
                raise
            _LOG.warning("%s while it was idle", self._end())
            self._begin()
            pipe = self._await_ready()
            _send(letter, pipe)
        return pipe

    def _await_ready(self) -> Connection:
        assert self._pipe is not None  # noqa: S101 - start() made it
        if not self._ready:
            self._pipe.recv_bytes(len(_READY))
            self._ready = True
        return self._pipe

    def kill(self, why: str) -> None:
        """End the process at once, whatever it does; may be called from another thread."""
        if self._process is not None and self._process.poll() is None:
            self._why = why
            self._process.kill()

    def stop(self) -> None:
        """End the process; it has no message now."""
        self._drop()
        if self._process is not None:
            try:
                self._process.wait(_LAST)
            except subprocess.TimeoutExpired:
                self.kill("it was stopped")
                self._process.wait()
            self._process = None

    def _drop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    def _end(self) -> str:
        """Why the process ended, once it has."""
        process = self._process
        assert process is not None  # noqa: S101
        self._drop()
        try:
            process.wait(_LAST)
        except subprocess.TimeoutExpired:
            self.kill("it closed its pipe")
            process.wait()
        code = process.returncode
        if self._why:
            return f"the worker was ended: {self._why}"
        if code < 0:
            hint = " (is the memory exhausted?)" if code == -signal.SIGKILL else ""
            return f"the worker was ended by {signal.Signals(-code).name}{hint}"
        return f"the worker ended with exit code {code}"


def serve(hospital: Path, pipe: Connection) -> None:
    """Answer what comes through the pipe until it is closed.

    What the app cannot answer is refused; only an exhausted memory ends the process, since nobody
    knows what state it left behind.

    Raises:
        OptionError: The hospital's noise would have a seed.
    """
    from fedward.client.app import make_app  # torch: the daemon does without
    from fedward.client.current import CurrentSite

    current = CurrentSite(hospital)
    name = current.now().hospital.name
    app = make_app(lambda _: current.now())

    def answer(letter: Letter) -> Letter:
        try:
            message = unpack(letter)
            node, run = message.metadata.dst_node_id, message.metadata.run_id
            return pack_reply(app(message, Context(run, node, {}, RecordDict(), {})), message)
        except Exception as error:
            _reraise_exhausted(error)
            _LOG.error("%s: %s", type(error).__name__, error)
            return reply_to(letter, pack_answer(could_not_finish(name)))

    with suppress(EOFError, ConnectionError):  # the daemon has ended, or was killed
        pipe.send_bytes(_READY)
        while True:
            _send(answer(_received(pipe)), pipe)


def _received(pipe: Connection) -> Letter:
    try:
        return Letter.read(pipe.recv_bytes)
    except OSError as error:  # also a daemon that was killed amid a letter
        raise EOFError from error


def _send(letter: Letter, pipe: Connection) -> None:
    for frame in letter.frames():
        pipe.send_bytes(frame)


def _reraise_exhausted(error: Exception) -> None:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        raise error


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def main() -> None:
    """The child's whole life."""
    hospital, pipe, parent = sys.argv[1:]
    configure_worker_log(Path(hospital))
    for number in (signal.SIGINT, signal.SIGTERM):  # they are meant for the daemon, which ends it
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[int(parent)], daemon=True).start()
    serve(Path(hospital), Connection(int(pipe)))


if __name__ == "__main__":
    main()
