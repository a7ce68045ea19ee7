"""The supervisor's duties, with a SuperLink that a test plays."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h11
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.privacy.certificates import Authority
from fedward.privacy.enrolment import EnrolmentAnswer, fingerprint, sign_answer
from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster, sign_roster
from fedward.server.aggregator import Aggregator, found_aggregator
from fedward.server.durable import write_aside
from fedward.server.gate import Route, verdict
from fedward.server.http_sides import Limits
from fedward.server.run_registry import RunFolder, RunRegistry
from fedward.server.state_lock import is_running, only_one
from fedward.server.superlink_control import Node, SuperLinkSilent
from fedward.server.supervisor import Pace, Supervisor
from fedward.study.errors import ServiceError
from tests.server.cut_off import private_study
from tests.server.flower_hospital import public_der, signed_time, transport_key
from tests.superlink_ward import free_port, until

PACE = Pace(nodes=0, runs=0, first_wait=0, longest_wait=0, probe=0)


class Link:
    """A SuperLink that does what a test says."""

    pid, port = 1, 2
    fleet_address, certificate = ("127.0.0.1", 3), b""

    def __init__(self) -> None:
        self.alive = True
        self.starts = 0
        self.started: list[str] = []
        self.state = ("running", "")
        self.down = False
        self.hangs = False
        self.killed = 0
        self.known: dict[int, Node] = {}
        self.asked: Callable[[str], None] = lambda name: None
        self.runs_are_told = True

    def start(self) -> None:
        self.starts += 1
        self.alive = True

    def stop(self) -> None:
        self.alive = False

    def die(self) -> None:
        self.alive = False
        self.known.clear()

    def answers(self, seconds: float) -> bool:
        assert seconds >= 0
        return not self.hangs

    def kill(self) -> None:
        self.killed += 1

    @property
    def control(self) -> Link:
        """It answers by itself what is asked of it."""
        return self

    def nodes(self) -> list[Node]:
        if self.down:
            raise SuperLinkSilent("the SuperLink does not answer")
        return list(self.known.values())

    def register(self, name: str, key: bytes) -> None:
        if self.down:
            raise SuperLinkSilent("the SuperLink does not answer")
        self.asked(name)
        number = len(self.known)
        self.known[number] = Node(number, key, name, online=False)

    def remove(self, number: int) -> None:
        del self.known[number]

    def runs(self) -> dict[int, tuple[str, str]]:
        if not self.runs_are_told:
            raise SuperLinkSilent("the SuperLink does not answer")
        return {}

    def start_run(self, config: dict[str, str]) -> int:
        self.started.append(Path(config["folder"]).name)
        return len(self.started)

    def run_state(self, number: int) -> tuple[str, str]:
        assert number
        return self.state


def enrolled(folder: Path, *, days_ago: int = 0) -> Aggregator:
    """An aggregator whose certificate was issued so many days ago; it is good for 397."""
    hub = found_aggregator(folder / "aggregator.toml", name="Hub", host="hub.org", port=9443)
    now, coordinator = datetime.now(UTC) - timedelta(days=days_ago), Identity.generate()
    authority = Authority.generate(now=now)
    roster = sign_roster(Roster(1, {"Ward": Identity.generate().public}), coordinator)
    chain = authority.certify(hub.request(), now=now)
    (folder / "renewed.pem").write_bytes(authority.certify(hub.request(), now=datetime.now(UTC)))
    answer = EnrolmentAnswer(roster, coordinator.public, authority.pem, "hub.org:9443", chain)
    hub.enroll(sign_answer(answer, coordinator), fingerprint(coordinator.public))
    return hub


@pytest.fixture
def hub(tmp_path: Path) -> Aggregator:
    return enrolled(tmp_path)


class Post:
    """A supervisor, looked at from one duty to the next."""

    def __init__(self, hub: Aggregator, pace: Pace = PACE) -> None:
        self.link, self.log = Link(), io.StringIO()
        self.supervisor: Any = Supervisor(hub, pace=pace, stream=self.log)
        self.supervisor._known["roster"] = _roster_stamp(hub)  # no gate is open here
        self.runs = RunRegistry(hub.state / "runs")

    def look(self, times: int = 1) -> None:
        for _ in range(times):
            self.supervisor._look(self.link, None)

    def submit(self, name: str) -> RunFolder:
        return self.runs.create(private_study(), b"{}", name=name)


def _roster_stamp(hub: Aggregator) -> tuple[int, int]:
    found = hub.roster_path.stat()
    return found.st_mtime_ns, found.st_ino


@pytest.fixture
def post(hub: Aggregator) -> Iterator[Post]:
    post = Post(hub)
    yield post
    post.supervisor._diary.close()


def test_one_bad_run_does_not_stop_the_others(post: Post) -> None:
    for name in ("a", "b", "c"):
        post.submit(name)
    (post.runs.get("b").folder / "run.json").write_text("{")

    post.look(5)

    assert post.link.started == ["a", "c"]
    assert post.log.getvalue().count("is no run") == 1
    told: list[str] = []
    listed = post.runs.list(lambda error: told.append(error.line()))
    assert [record.name for record in listed] == ["a", "c"]
    assert "b/run.json" in told[0]


def test_trouble_with_one_duty_leaves_the_others(post: Post) -> None:
    post.submit("a")
    post.link.down = True

    post.look(3)

    assert post.link.started == ["a"]
    assert post.log.getvalue().count("does not answer") == 1


# --- Who is let in --------------------------------------------------------------------------------


class Door:
    """A gate that leads nowhere at first."""

    def __init__(self) -> None:
        self.route: Route | None = None

    @property
    def leads(self) -> bool:
        return self.route is not None

    def lead_to(self, route: Route | None) -> None:
        self.route = route

    def answer(self, key: ec.EllipticCurvePrivateKey) -> int:
        """What a hospital is told: 503, to try again; 401, that it may not; or what is behind."""
        if self.route is None:
            return 503
        headers = [(b"host", b"hub"), (b"content-length", b"0"), *signed_time(key).items()]
        asked = h11.Request(method="POST", target="/v1/fleet/pull-messages", headers=headers)
        return verdict(asked, self.route, Limits())[0] or 200


class Admission:
    """A roster that changes, and what each hospital is told at the gate."""

    def __init__(self, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.registered: list[tuple[str, int]] = []
        self._post, self._door = post, Door()
        self._patch = monkeypatch
        post.link.asked = lambda name: self.registered.append((name, self.told()[name]))

    def install(self, version: int, *names: str) -> dict[str, int]:
        self.keys.update({name: transport_key() for name in names if name not in self.keys})
        members = {name: Identity.generate().public for name in names}
        transports = {name: public_der(self.keys[name]) for name in names}
        roster = Roster(version, members, transports)
        self._patch.setattr(Aggregator, "roster", lambda _: roster)
        self._post.supervisor._known.pop("roster", None)
        return self.look()

    def look(self) -> dict[str, int]:
        self._post.supervisor._look(self._post.link, self._door)
        return self.told()

    def told(self) -> dict[str, int]:
        return {name: self._door.answer(key) for name, key in self.keys.items()}


@pytest.fixture
def admission(post: Post, monkeypatch: pytest.MonkeyPatch) -> Admission:
    return Admission(post, monkeypatch)


def test_a_hospital_is_let_in_once_the_superlink_knows_it(post: Post, admission: Admission) -> None:
    """Flower's own SuperNode tries again after 503, and ends for good where it is not known."""
    post.link.down = True
    assert admission.install(2, "Stays", "Leaves") == {"Stays": 503, "Leaves": 503}
    post.link.down = False
    assert admission.look() == {"Stays": 200, "Leaves": 200}
    assert admission.registered == [("Stays", 503), ("Leaves", 503)]

    # Who leaves is shut out at once, though the SuperLink hears nothing; who comes has to wait.
    post.link.down = True
    assert admission.install(3, "Stays", "Comes") == {"Stays": 200, "Leaves": 401, "Comes": 503}
    assert admission.look() == {"Stays": 200, "Leaves": 401, "Comes": 503}
    post.link.down = False
    assert admission.look() == {"Stays": 200, "Leaves": 401, "Comes": 200}
    assert admission.registered[2:] == [("Comes", 503)]
    assert [node.name for node in post.link.nodes()] == ["Stays", "Comes"]


def test_a_hospital_of_which_the_superlink_says_nothing_is_registered_later(
    post: Post, admission: Admission
) -> None:
    silent = {"B"}

    def asked(name: str) -> None:
        if name in silent:
            silent.discard(name)
            raise SuperLinkSilent("it does not answer RegisterNode")

    post.link.asked = asked
    assert set(admission.install(2, "A", "B", "C").values()) == {503}
    assert set(admission.look().values()) == {200}
    assert [node.name for node in post.link.nodes()] == ["A", "B", "C"]


def test_a_hospital_that_is_refused_keeps_no_other_out(post: Post, admission: Admission) -> None:
    def asked(name: str) -> None:
        if name == "B":
            raise ServiceError("the key is in use")

    post.link.asked = asked
    assert set(admission.install(2, "A", "B", "C").values()) == {200}  # B hears it from behind
    assert [node.name for node in post.link.nodes()] == ["A", "C"]
    assert "the key is in use" in post.log.getvalue()


def test_a_superlink_that_cannot_be_asked_for_its_runs_is_started_anew(
    post: Post, admission: Admission
) -> None:
    """What is done once after a start would not be done, and the gate would stay shut."""
    assert admission.install(2, "A") == {"A": 200}
    post.link.die()
    post.link.runs_are_told = False
    assert admission.look() == {"A": 503}
    assert not post.link.alive
    post.link.runs_are_told = True
    assert admission.look() == {"A": 200}
    assert post.link.starts == 2


# --- Runs whose process dies ----------------------------------------------------------------------


def die(post: Post) -> None:
    """A run is begun, and its process ends without a word."""
    post.link.state = ("failed", "out of  memory")
    post.look(2)


def test_a_run_that_does_not_get_on_is_paused_with_the_reason(post: Post) -> None:
    run = post.submit("a")

    for _ in range(5):
        die(post)

    assert post.link.started == ["a"] * 3
    assert run.record.state == "paused"
    assert "died 3 times" in run.record.reason
    assert "out of memory" in run.record.reason


def test_a_run_that_gets_on_is_not_given_up(post: Post) -> None:
    run = post.submit("a")
    run.checkpoint.mkdir()
    for number in range(7):
        die(post)
        if number % 2:
            (run.checkpoint / f"after-{number:06}").mkdir()

    assert post.link.started == ["a"] * 7
    assert run.record.state == "submitted"


def test_a_run_that_was_resumed_has_all_its_lives_again(post: Post) -> None:
    run = post.submit("a")
    for _ in range(3):
        die(post)
    run.mark("submitted", "resumed")

    die(post)

    assert post.link.started == ["a"] * 4
    assert run.record.state == "submitted"


def test_a_run_that_died_is_begun_again_only_after_a_while(hub: Aggregator) -> None:
    post = Post(hub, Pace(nodes=0, runs=0, first_wait=30))
    run = post.submit("a")
    die(post)
    post.look(3)

    assert post.link.started == ["a"]
    run.ask_to_stop()
    post.look()
    assert run.record.state == "stopped"
    post.supervisor._diary.close()


# --- A SuperLink that hangs -----------------------------------------------------------------------


def said_to_answer(post: Post, hub: Aggregator) -> tuple[bool, float | None]:
    """What the file of the status and the gauge say of the SuperLink."""
    post.supervisor._due.pop("status")
    post.look()
    alive = json.loads((hub.state / "status.json").read_bytes())["superlink"]["alive"]
    registry = post.supervisor._gauges.registry
    return alive, registry.get_sample_value("fedward_superlink_up")


def test_a_superlink_that_is_silent_for_too_long_is_killed(hub: Aggregator) -> None:
    post = Post(hub, replace(PACE, silent=0.2))
    run = post.submit("a")
    post.look()
    assert post.link.started == ["a"]
    assert said_to_answer(post, hub) == (True, 1.0)
    run.mark("submitted", "anew")
    post.submit("b")
    post.link.hangs = True

    post.look(10)
    assert post.link.killed == 0
    assert post.link.started == ["a"]  # nothing is asked of one that is silent
    assert said_to_answer(post, hub) == (False, 0.0)
    time.sleep(0.2)
    post.look()
    assert post.link.killed == 1
    assert post.log.getvalue().count("superlink hangs") == 1
    post.supervisor._diary.close()


def test_a_superlink_that_answers_late_and_a_machine_that_slept_are_no_reason(
    hub: Aggregator,
) -> None:
    post = Post(hub, replace(PACE, silent=0.1))
    post.look()
    for _ in range(4):
        time.sleep(0.15)  # far longer than allowed
        post.link.hangs = True
        post.look(2)  # but not asked often enough
        post.link.hangs = False
        post.look()

    assert post.link.killed == 0
    post.supervisor._diary.close()


@pytest.mark.slow
def test_a_real_superlink_that_is_stopped_is_killed_and_started_again(tmp_path: Path) -> None:
    hub = enrolled(tmp_path)
    hub.file = hub.file.model_copy(update={"port": free_port(), "listen": "127.0.0.1"})
    log, stop = io.StringIO(), threading.Event()
    supervisor = Supervisor(hub, pace=Pace(first_wait=0.1, probe=0.5, silent=3.0), stream=log)
    thread = threading.Thread(target=supervisor.run, args=[stop], daemon=True)
    thread.start()

    def pid() -> int:
        with contextlib.suppress(OSError, ValueError):
            link = json.loads((hub.state / "status.json").read_bytes())["superlink"]
            return int(link["pid"] or 0) if link["alive"] else 0
        return 0

    try:
        until(pid, seconds=120, what="the SuperLink")
        hung = psutil.Process(pid())
        hung.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        until(lambda: "superlink hangs" in log.getvalue(), seconds=60, what=log.getvalue)
        assert time.monotonic() - began >= 2  # what it answered last was just before
        until(lambda: pid() not in {0, hung.pid}, seconds=120, what=log.getvalue)
        assert not hung.is_running()
        time.sleep(2)
        assert log.getvalue().count("superlink hangs") == 1  # the new one answers
        assert log.getvalue().count('"superlink started"') == 2
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


# --- Certificate and lock -------------------------------------------------------------------------


def test_a_certificate_that_is_refused_is_looked_at_again(post: Post, hub: Aggregator) -> None:
    good, key = hub.certificate_path.read_bytes(), hub.key_path.read_bytes()
    post.look()
    write_aside(hub.certificate_path, b"half of it")
    post.look(3)
    # The same file as was refused is good once what else was wrong is mended.
    write_aside(hub.certificate_path, good)
    hub.key_path.rename(hub.key_path.with_suffix(".away"))
    post.look(3)
    assert "certificate renewed" not in post.log.getvalue()

    hub.key_path.with_suffix(".away").rename(hub.key_path)
    assert hub.key_path.read_bytes() == key
    post.look(3)

    assert post.log.getvalue().count("certificate renewed") == 1


def days_left(post: Post) -> float:
    found = post.supervisor._gauges.registry.get_sample_value("fedward_certificate_days")
    assert found is not None
    return float(found)


def test_a_certificate_that_ends_soon_is_told_once_until_it_is_renewed(tmp_path: Path) -> None:
    hub = enrolled(tmp_path, days_ago=397 - 17)
    post = Post(hub)

    post.look(3)

    assert post.log.getvalue().count("certificate ends") == 1
    assert '"days": 16' in post.log.getvalue()
    assert days_left(post) == pytest.approx(17, abs=0.1)
    write_aside(hub.certificate_path, (tmp_path / "renewed.pem").read_bytes())
    post.look(3)
    assert days_left(post) == pytest.approx(397, abs=0.1)
    assert post.log.getvalue().count("certificate ends") == 1
    post.supervisor._diary.close()


def test_a_certificate_that_lasts_is_not_told(post: Post) -> None:
    post.look(3)

    assert "certificate" not in post.log.getvalue()
    assert days_left(post) > 390


def test_asking_whether_it_runs_does_not_keep_it_from_starting(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        assert not is_running(tmp_path)  # somebody else who asks is no aggregator
        threading.Timer(0.1, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        with only_one(tmp_path):
            assert is_running(tmp_path)
            with pytest.raises(ServiceError, match="runs on this folder"), only_one(tmp_path):
                pass
    assert not is_running(tmp_path)
