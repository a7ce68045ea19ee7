"""A supervisor that a test looks at from one duty to the next, and the SuperLink that it plays."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fedward.privacy.certificates import Authority
from fedward.privacy.enrolment import EnrolmentAnswer, fingerprint, sign_answer
from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster, sign_roster
from fedward.server.aggregator import Aggregator, found_aggregator
from fedward.server.run_registry import RunFolder, RunRegistry
from fedward.server.superlink_control import Node, SuperLinkSilent
from fedward.server.supervisor import Pace, Supervisor
from tests.server.cut_off import private_study

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
