"""The control socket: a real server and real clients over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import pytest

from fedward.client import control_pb2 as pb
from fedward.client import socket_address
from fedward.client.control import ControlClient, ControlServer, NotRunning, socket_of
from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Disconnected,
    Happening,
    Idle,
    Leaving,
    Refused,
    Stopped,
    WorkerRestarted,
)
from fedward.client.standing import Observer
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.errors import DataError, InputError
from fedward.study.study import Study
from tests.enrolled import Enrolled, enrol

ASKED = Asked("train", "ab" * 32, "run-1", 3, 1000, "cd" * 32)
StudyWith = Callable[[Mapping[str, object]], Study]


class Service:
    """A server with what a daemon would tell it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stopped = threading.Event()
        self.observer = Observer()
        self.server = ControlServer(path, self.observer, self.stopped.set)

    def tell(self, *happenings: Happening) -> None:
        for happening in happenings:
            self.observer(happening)
            self.server(happening)


@pytest.fixture
def north() -> Iterator[Enrolled]:
    """In a short path, which every system can call by its name."""
    with TemporaryDirectory() as folder:
        yield enrol(Path(folder), "north")[0]


@pytest.fixture
def service(north: Enrolled) -> Iterator[Service]:
    running = Service(north.path)
    running.server.start()
    yield running
    running.server.close()


@pytest.fixture
def client(service: Service) -> Iterator[ControlClient]:
    with ControlClient(service.path) as found:
        yield found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_socket_is_its_owners_alone(service: Service) -> None:
    path = socket_of(service.path)

    assert stat.S_ISSOCK(path.stat().st_mode)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_socket_in_a_deep_folder_answers_as_any_other(tmp_path: Path) -> None:
    """Linux takes 107 bytes as a socket's address: the path of this one is far longer."""
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    folder.mkdir(parents=True)
    running = Service(enrol(folder, "north")[0].path)
    running.server.start()
    try:
        for _ in range(3):  # each with a descriptor of its own
            with ControlClient(running.path) as asking:
                assert asking.healthy("alive")
                assert asking.status().hospital == "north"
        assert mode(socket_of(running.path)) == 0o600
    finally:
        running.server.close()
    assert not socket_of(running.path).exists()


def test_a_folder_that_others_could_enter_is_closed_to_them(north: Enrolled) -> None:
    folder = socket_of(north.path).parent
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    running = Service(north.path)

    assert mode(folder) == 0o700
    running.server.close()


def test_a_folder_that_leads_elsewhere_is_refused(north: Enrolled, tmp_path: Path) -> None:
    folder = socket_of(north.path).parent
    folder.parent.mkdir(parents=True)
    folder.symlink_to(tmp_path)

    with pytest.raises(DataError, match="control socket cannot be used"):
        Service(north.path)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_no_socket_can_have_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a system that cannot name a folder by its descriptor."""
    (far := tmp_path / ("x" * 100)).mkdir()
    running = Service(enrol(far, "north")[0].path)
    monkeypatch.setattr(socket_address, "_DESCRIPTORS", tmp_path / "nowhere")

    with pytest.raises(DataError, match="set a shorter path as state"):
        running.server.start()
    running.server.close()


def test_two_daemons_cannot_both_hold_it(service: Service, client: ControlClient) -> None:
    with pytest.raises(DataError, match="another daemon runs"):
        Service(service.path)

    assert client.status().hospital == "north"  # the first is still there


def test_a_socket_that_a_dead_daemon_left_is_replaced(north: Enrolled) -> None:
    path = socket_of(north.path)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    running = Service(north.path)
    with ControlClient(north.path) as early, ControlClient(north.path) as client:
        with pytest.raises(NotRunning):
            early.status()
        running.server.start()
        assert client.status().state == "starting"  # it need not wait as the early one would
    running.server.close()
    assert not path.exists()


KILLED = """
import sys, time
from pathlib import Path
from fedward.client.control import ControlServer
from fedward.client.standing import Observer
server = ControlServer(Path(sys.argv[1]), Observer(), lambda: None)
server.start()
print("ready", flush=True)
time.sleep(100)
"""


def test_after_kill_9_the_next_daemon_takes_the_socket(north: Enrolled) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(north.path)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(DataError, match="another daemon runs"):
            Service(north.path)
        with ControlClient(north.path) as client:
            assert client.status().process == first.pid
        os.kill(first.pid, signal.SIGKILL)
        first.wait()

    running = Service(north.path)
    running.server.start()
    with ControlClient(north.path) as client:
        assert client.status().process == os.getpid()
    running.server.close()


def test_without_a_daemon_one_line_says_so(north: Enrolled) -> None:
    with pytest.raises(NotRunning, match="no daemon runs"):
        ControlClient(north.path)


def test_status_adds_up_what_happened(service: Service, client: ControlClient) -> None:
    service.tell(
        Connected("agg:9092"),
        ASKED,
        Leaving(ASKED, 400, "ef" * 32, ""),
        Answered(ASKED, 400, "ef" * 32, 0.5),
        ASKED,
        WorkerRestarted("it was ended"),
        Leaving(ASKED, 50, "ef" * 32, "TrainingError"),
        Refused(ASKED, "TrainingError", "could not finish"),
    )
    found = client.status()

    assert (found.state, found.address, found.kind, found.round) == (
        *("connected", "agg:9092", "train", 3),
    )
    assert (found.answered, found.refused, found.worker_restarts) == (1, 1, 1)
    assert (found.bytes_in, found.bytes_out) == (2000, 450)
    service.tell(ASKED)
    assert client.status().state == "working"


@pytest.mark.parametrize(
    ("happening", "healthy"),
    [
        (Connected("a:1"), True),
        (Idle(), True),
        (ASKED, True),
        (Disconnected("ConnectionLost", "it cannot be reached"), False),
        (Stopped(), False),
    ],
)
def test_health_says_whether_the_daemon_can_work(
    service: Service, client: ControlClient, happening: Happening, healthy: bool
) -> None:
    assert not client.healthy()
    service.tell(happening)

    assert client.healthy() is healthy
    assert client.healthy("fedward.control.v1.Hospital") is healthy
    assert client.healthy("alive")


def test_health_answers_any_standard_probe(service: Service) -> None:
    """As systemd's and Kubernetes' own probes ask: without this package's client."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    service.tell(Connected("a:1"))
    with grpc.insecure_channel(f"unix:{socket_of(service.path)}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=10)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_study_is_approved_and_revoked_over_the_socket(
    north: Enrolled, service: Service, client: ControlClient, study_with: StudyWith
) -> None:
    digest = north.offer(study_with({}))
    (offered,) = client.studies().studies
    assert (offered.digest, offered.name, offered.approved) == (digest, "tiny", False)

    file = client.approve(digest[:8])
    assert file.exists()
    assert [one.approved for one in client.studies().studies] == [True]

    assert client.revoke(digest) == file
    assert not file.exists()
    assert [one.approved for one in client.studies().studies] == [False]


@pytest.mark.parametrize("digest", ["", "no digest", "ab" * 32, "../../etc"])
def test_a_typed_error_crosses_the_socket_as_one_line(client: ControlClient, digest: str) -> None:
    with pytest.raises(InputError) as caught:
        client.approve(digest)

    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.line()


def test_a_budget_without_a_ledger_is_said_in_words(client: ControlClient) -> None:
    with pytest.raises(Exception, match="nothing was ever charged") as caught:
        client.budget()
    assert getattr(caught.value, "exit_code", 0) == 1


LIGHT = """
import sys
from pathlib import Path
from fedward.client import daemon, service  # all that a daemon is made of
from fedward.client.control import ControlClient, ControlServer
from fedward.client.standing import Observer
path = Path(sys.argv[1])
server = ControlServer(path, Observer(), lambda: None)
server.start()
with ControlClient(path) as client:
    (offered,) = client.studies().studies
    client.approve(offered.digest)
    (row, whole) = client.budget().rows
    client.revoke(offered.digest)
server.close()
print(row.data, row.rounds, f"{row.epsilon:.3f}", whole.study)
print(*sorted({"torch", "opacus", "sklearn", "scipy"} & set(sys.modules)), "ended")
"""


@pytest.mark.slow
def test_what_is_asked_over_the_socket_loads_no_torch_into_the_daemon(
    north: Enrolled, study_with: StudyWith
) -> None:
    """It would hold hundreds of megabytes as long as the daemon lives."""
    north.offer(study_with({}))
    steps = SampledGaussian(1.0, 0.5, 2)
    charge = Charge(
        *("data", "ab" * 32, "run-1", 1, "cd" * 32, "ef" * 32), steps, delta=1e-5, accountant="rdp"
    )
    north.state.mkdir(exist_ok=True)
    Ledger(north.state / "ledger.sqlite").charge(charge, cap=None, most=9)

    said = subprocess.run(
        [sys.executable, "-c", LIGHT, str(north.path)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    assert said == [f"data 1 {epsilon_of([steps], 1e-5, 'rdp'):.3f} all", "ended"]


def test_stop_reaches_the_daemon(service: Service, client: ControlClient) -> None:
    client.stop()

    assert service.stopped.wait(5)


def test_who_watches_is_told_everything_from_then_on(
    service: Service, client: ControlClient
) -> None:
    service.tell(Connected("too early"))
    events = client.watch()
    service.tell(ASKED, Answered(ASKED, 400, "ef" * 32, 0.5), Stopped())

    seen = list(events)

    assert [event.kind for event in seen] == ["asked", "answered", "stopped"]
    assert seen[0].text == f"asked to train round 3 of run run-1 of study {'ab' * 6} (1,000 bytes)"
    assert dict(seen[1].values)["seconds"] == "0.5"


def test_several_watch_and_one_that_leaves_disturbs_nobody(service: Service) -> None:
    with ControlClient(service.path) as first:
        stays = first.watch()
        for _ in range(20):  # more than may watch at once: those who left are forgotten
            with ControlClient(service.path) as other:
                other.watch()
            service.tell(Idle())
        service.tell(Stopped())
        assert [event.kind for event in stays] == ["idle"] * 20 + ["stopped"]


def test_only_so_many_may_watch(service: Service) -> None:
    clients = [ControlClient(service.path) for _ in range(9)]
    streams: list[Iterator[pb.Event]] = [client.watch() for client in clients[:8]]
    with pytest.raises(Exception, match="watch already"):
        list(clients[8].watch())
    assert clients[8].status().hospital == "north"  # and threads are left for the rest
    service.tell(Stopped())
    assert all(next(stream).kind == "stopped" for stream in streams)
    for client in clients:
        client.close()


def test_a_watcher_that_does_not_listen_costs_the_daemon_nothing(service: Service) -> None:
    with ControlClient(service.path) as client:
        client.watch()
        for _ in range(100_000):
            service.tell(Idle())
        assert service.observer.standing.state == "idle"
    watchers = service.server._desk._watchers
    assert sum(watcher.qsize() for watcher in watchers) <= 2000
