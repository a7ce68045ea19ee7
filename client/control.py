"""The running daemon's desk: gRPC on a Unix socket that only the daemon's own account can reach.

The socket lies in `<state>/control`, a folder of its owner alone. A lock beside it is held as long
as the daemon lives, so that a socket that a crash left is replaced and a live one is not. Beside
the daemon's own service answers the standard `grpc.health.v1`: the service `""` is SERVING while
the daemon can do its work, `alive` as long as the process lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedward.client import control_pb2 as pb
from fedward.client.control_pb2_grpc import (
    HospitalServicer,
    HospitalStub,
    add_HospitalServicer_to_server,
)
from fedward.client.happenings import Happening, Stopped
from fedward.client.hospital import read_hospital
from fedward.client.offers import approve, known_studies, revoke
from fedward.client.report import report
from fedward.client.socket_address import SocketAddress
from fedward.client.spent_apart import spent_apart
from fedward.client.standing import WORKS, Observer
from fedward.study.errors import DataError, FedwardError, InputError
from fedward.study.version import VERSION

ALIVE = "alive"
_NAME = "fedward.control.v1.Hospital"
_THREADS = 12
_WATCHERS = 8  # each holds a thread
_BEHIND = 1000  # events that a watcher may be behind
_CALL_SECONDS = 60.0
_GRACE = 2.0  # seconds for calls that run when the daemon ends


class NotRunning(FedwardError):  # noqa: N818 - reads as the fact that it states
    """No daemon runs for this hospital."""


class ControlServer:
    """Answers on the socket; also a listener, which tells watchers and the health service."""

    def __init__(self, hospital_path: Path, observer: Observer, stop: Callable[[], object]) -> None:
        """Take the socket; nobody is answered yet.

        Args:
            hospital_path: The `hospital.toml`.
            observer: Knows how the daemon stands; told before this listener.
            stop: Ends the daemon soon.

        Raises:
            DataError: Another daemon holds the socket, or it cannot be made.
        """
        hospital = read_hospital(hospital_path)
        self._socket = socket_of(hospital_path)
        self._folder = self._socket.parent
        self._address: SocketAddress | None = None
        self._lock = _take(self._folder)
        self._desk = _Desk(hospital_path, hospital.name, observer, stop)
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix="control"),
            options=[("grpc.so_reuseport", 0)],
        )
        add_HospitalServicer_to_server(self._desk, self._server)  # type: ignore[no-untyped-call]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._serving(works=False)
        self._health.set(ALIVE, health_pb2.HealthCheckResponse.SERVING)

    def start(self) -> None:
        """Answer from now on.

        Raises:
            DataError: The socket cannot be made.
        """
        try:
            self._socket.unlink(missing_ok=True)  # of a daemon that is dead: the lock is ours
            self._address = SocketAddress(self._socket)
            self._server.add_insecure_port(self._address.target)
            self._socket.chmod(0o600)
        except (OSError, RuntimeError) as error:
            raise _unusable(self._socket, str(error)) from None
        self._server.start()

    def __call__(self, happening: Happening) -> None:
        """Tell a happening on."""
        self._desk.tell(happening)
        self._serving(works=self._desk.observer.standing.state in WORKS)

    def close(self) -> None:
        """Answer nobody any more, and give the socket up."""
        self._desk.tell(Stopped())
        self._health.enter_graceful_shutdown()
        self._server.stop(_GRACE).wait()
        if self._address is not None:
            self._address.close()
        self._socket.unlink(missing_ok=True)
        os.close(self._lock)

    def _serving(self, *, works: bool) -> None:
        status = health_pb2.HealthCheckResponse
        for service in ("", _NAME):
            self._health.set(service, status.SERVING if works else status.NOT_SERVING)


class _Desk(HospitalServicer):
    """What can be asked, one method each, by the names of control.proto."""

    def __init__(
        self, path: Path, hospital: str, observer: Observer, stop: Callable[[], object]
    ) -> None:
        self._path, self._hospital, self.observer, self._stop = path, hospital, observer, stop
        self._watchers: set[queue.Queue[pb.Event | None]] = set()
        self._one = threading.Lock()
        self._over = False

    def tell(self, happening: Happening) -> None:
        """Give every watcher the event; who is far behind is let go."""
        told = report(happening)
        event = pb.Event(
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            kind=told.kind,
            text=told.text,
            values={key: str(value) for key, value in told.values.items()},
        )
        over = isinstance(happening, Stopped)
        with self._one:
            if self._over:
                return
            self._over = over
            for watcher in list(self._watchers):
                _put(watcher, event)
                if over or watcher.qsize() > _BEHIND:
                    _put(watcher, None)
                    self._watchers.discard(watcher)

    def Status(self, _request: pb.StatusRequest, _context: Any) -> pb.StatusReply:  # noqa: ANN401, N802
        """How the daemon stands."""
        now = self.observer.standing
        asked = now.asked
        return pb.StatusReply(
            hospital=self._hospital,
            version=VERSION,
            process=os.getpid(),
            state=now.state,
            since=now.since,
            started=now.started,
            address=now.address,
            reason=now.reason,
            kind=asked.kind if asked else "",
            study=asked.study if asked else "",
            run=asked.run if asked else "",
            round=asked.round if asked else 0,
            answered=now.answered,
            refused=now.refused,
            dropped=now.dropped,
            bytes_in=now.bytes_in,
            bytes_out=now.bytes_out,
            worker_restarts=now.restarts,
        )

    def Studies(self, _request: pb.StudiesRequest, context: Any) -> pb.StudiesReply:  # noqa: ANN401, N802
        """Every study that was offered or approved."""
        with _errors_told(context):
            hospital = read_hospital(self._path)
            known = known_studies(hospital, self._path.parent / hospital.studies)
        return pb.StudiesReply(
            studies=[
                pb.Study(
                    digest=one.digest,
                    name=one.study.study.name,
                    approved=one.approved is not None,
                )
                for one in known
            ]
        )

    def Approve(self, request: pb.ApproveRequest, context: Any) -> pb.ApproveReply:  # noqa: ANN401, N802
        """Approve an offered study."""
        with _errors_told(context):
            hospital = read_hospital(self._path)
            file = approve(request.digest, hospital, self._path.parent / hospital.studies)
        return pb.ApproveReply(file=str(file))

    def Revoke(self, request: pb.RevokeRequest, context: Any) -> pb.RevokeReply:  # noqa: ANN401, N802
        """Withdraw an approval."""
        with _errors_told(context):
            hospital = read_hospital(self._path)
            file = revoke(request.digest, hospital, self._path.parent / hospital.studies)
        return pb.RevokeReply(file=str(file))

    def Budget(self, _request: pb.BudgetRequest, context: Any) -> pb.BudgetReply:  # noqa: ANN401, N802
        """What was spent of the patients' privacy."""
        with _errors_told(context):
            rows = spent_apart(self._path, seconds=_CALL_SECONDS)
        return pb.BudgetReply(rows=[pb.Spent(**row) for row in rows])

    def Stop(self, _request: pb.StopRequest, _context: Any) -> pb.StopReply:  # noqa: ANN401, N802
        """End the daemon soon."""
        self._stop()
        return pb.StopReply()

    def Watch(self, _request: pb.WatchRequest, context: Any) -> Iterator[pb.Event]:  # noqa: ANN401, N802
        """Every event from now on."""
        watcher: queue.Queue[pb.Event | None] = queue.Queue()
        with self._one:
            if len(self._watchers) >= _WATCHERS:
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{_WATCHERS} watch already")
            if not self._over:
                self._watchers.add(watcher)
            else:
                watcher.put(None)

        def leave() -> None:
            with self._one:
                self._watchers.discard(watcher)
            watcher.put(None)

        if not context.add_callback(leave):
            leave()
        context.send_initial_metadata(())  # who sees it is told everything from here on
        while (event := watcher.get()) is not None:
            yield event


class ControlClient:
    """What a program asks of a running daemon."""

    def __init__(self, hospital_path: Path, *, seconds: float = _CALL_SECONDS) -> None:
        """Nothing is asked yet.

        Args:
            hospital_path: The `hospital.toml`.
            seconds: That an answer may take.

        Raises:
            NotRunning: No daemon runs for this hospital.
        """
        self._path, self._seconds = hospital_path, seconds
        socket = socket_of(hospital_path)
        if not socket.exists():
            raise self._not_running()
        try:
            self._address = SocketAddress(socket)
        except OSError as error:
            raise _unusable(socket, str(error.strerror)) from None
        # A connection of its own: the waiting after one that failed is not to meet the next client.
        own = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(self._address.target, options=own)
        self._stub: Any = HospitalStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()
        self._address.close()

    def status(self) -> pb.StatusReply:
        """How the daemon stands."""
        return self._ask(self._stub.Status, pb.StatusRequest())  # type: ignore[no-any-return]

    def studies(self) -> pb.StudiesReply:
        """Every study that was offered or approved."""
        return self._ask(self._stub.Studies, pb.StudiesRequest())  # type: ignore[no-any-return]

    def approve(self, digest: str) -> Path:
        """Approve an offered study; gives the file that is the approval."""
        return Path(self._ask(self._stub.Approve, pb.ApproveRequest(digest=digest)).file)

    def revoke(self, digest: str) -> Path:
        """Withdraw an approval; gives the file that was taken away."""
        return Path(self._ask(self._stub.Revoke, pb.RevokeRequest(digest=digest)).file)

    def budget(self) -> pb.BudgetReply:
        """What was spent of the patients' privacy."""
        return self._ask(self._stub.Budget, pb.BudgetRequest())  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End the daemon soon."""
        self._ask(self._stub.Stop, pb.StopRequest())

    def watch(self) -> Iterator[pb.Event]:
        """Every event, from when this returns until the daemon ends or the client is closed."""
        stream = self._stub.Watch(pb.WatchRequest())
        try:
            stream.initial_metadata()
        except grpc.RpcError as error:
            raise self._error(error) from None
        return self._events(stream)

    def healthy(self, service: str = "") -> bool:
        """What the standard health service says."""
        stub = health_pb2_grpc.HealthStub(self._channel)
        reply = self._ask(stub.Check, health_pb2.HealthCheckRequest(service=service))
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    def _events(self, stream: Any) -> Iterator[pb.Event]:  # noqa: ANN401
        try:
            yield from stream
        except grpc.RpcError as error:
            if error.code() not in {grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE}:
                raise self._error(error) from None

    def _ask(self, method: Any, request: Any) -> Any:  # noqa: ANN401
        try:
            return method(request, timeout=self._seconds)
        except grpc.RpcError as error:
            raise self._error(error) from None

    def _error(self, error: Any) -> FedwardError:  # noqa: ANN401
        if error.code() == grpc.StatusCode.UNAVAILABLE:
            return self._not_running()
        try:
            told = json.loads(error.details())
            kind = InputError if error.code() == grpc.StatusCode.INVALID_ARGUMENT else FedwardError
            return kind(told["what"], todo=told["todo"], where=told["where"])
        except (ValueError, KeyError, TypeError):
            return FedwardError(f"the daemon failed ({error.details()})", todo="see its log")

    def _not_running(self) -> NotRunning:
        return NotRunning(
            "no daemon runs for this hospital",
            todo="start it with fedward hospital start",
            where=str(self._path),
        )


def socket_of(hospital_path: Path) -> Path:
    """Where the daemon of a hospital listens."""
    state = (hospital_path.parent / read_hospital(hospital_path).state).resolve()
    return state / "control" / "socket"


@contextmanager
def _errors_told(context: Any) -> Iterator[None]:  # noqa: ANN401
    """A typed error crosses the socket in its parts; it stays on this machine."""
    try:
        yield
    except FedwardError as error:
        _refuse(context, error)


def _refuse(context: Any, error: FedwardError) -> NoReturn:  # noqa: ANN401
    code = grpc.StatusCode.FAILED_PRECONDITION
    if isinstance(error, InputError):
        code = grpc.StatusCode.INVALID_ARGUMENT
    told = {"what": error.what, "todo": error.todo, "where": error.where}
    context.abort(code, json.dumps(told))
    raise AssertionError("abort raises")


def _put(watcher: queue.Queue[pb.Event | None], event: pb.Event | None) -> None:
    watcher.put_nowait(event)


def _take(folder: Path) -> int:
    """Make the folder its owner's alone, and hold the lock in it."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise _unusable(folder, "it is not a folder of this account")
        folder.chmod(0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(folder, str(error.strerror)) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DataError(
            "another daemon runs for this hospital",
            todo="see fedward hospital status; end it with fedward hospital stop",
            where=str(folder),
        ) from None
    return lock


def _unusable(
    path: Path, why: str, *, todo: str = "give this account a folder of its own as state"
) -> DataError:
    return DataError(f"the control socket cannot be used ({why})", todo=todo, where=str(path))
