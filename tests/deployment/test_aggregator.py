"""`fedward aggregator` as its operator runs it: a real process, its SuperLink, its public port."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.proto.fleet_pb2 import ActivateNodeRequest

from fedward.models.registry import settled
from fedward.privacy.certificates import Authority
from fedward.privacy.enrolment import EnrolmentAnswer, fingerprint, sign_answer
from fedward.privacy.identity import Identity
from fedward.privacy.roster import Roster, sign_roster
from fedward.privacy.signed_study import sign_study
from fedward.privacy.small_cells import Statistics
from fedward.study.study import parse_study
from tests.cli.conftest import study_values
from tests.server.flower_hospital import hospital, public_der, transport_key

pytestmark = pytest.mark.slow
_LOG = logging.getLogger(__name__)  # for who sees a test fail
FEDWARD = Path(sys.executable).with_name("fedward")
Keys = dict[str, ec.EllipticCurvePrivateKey]


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def wait_for(what: Callable[[], object], *, seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < last, "it did not happen in time"
        time.sleep(0.1)


@dataclass
class House:
    """An aggregator's folder, and the coordinator who enrols it."""

    folder: Path
    port: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    coordinator: Identity = field(default_factory=Identity.generate)
    keys: Keys = field(default_factory=lambda: {n: transport_key() for n in ("Ward A", "Ward Ä")})
    identities: dict[str, Identity] = field(default_factory=dict)

    def fedward(self, *words: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [FEDWARD, "aggregator", *map(str, words)],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def roster(self, version: int, *names: str) -> bytes:
        for name in names:
            self.identities.setdefault(name, Identity.generate())
        members = {name: self.identities[name].public for name in names}
        transports = {name: public_der(self.keys[name]) for name in names}
        return sign_roster(Roster(version, members, transports), self.coordinator)

    def enrol(self) -> None:
        self.fedward("init", "--name", "Hub", "--host", "127.0.0.1", "--port", str(self.port))
        with (self.folder / "aggregator.toml").open("a") as file:
            file.write(f'listen = "127.0.0.1"\nmetrics = {self.metrics}\n')
        now = datetime.now(UTC)
        authority = Authority.generate(now=now)
        answer = EnrolmentAnswer(
            roster=self.roster(1, *self.keys),
            coordinator=self.coordinator.public,
            ca=authority.pem,
            address=f"127.0.0.1:{self.port}",
            certificate=authority.certify((self.folder / "request.csr").read_bytes(), now=now),
        )
        (self.folder / "answer.json").write_bytes(sign_answer(answer, self.coordinator))
        told = fingerprint(self.coordinator.public)
        self.fedward("enroll", "--answer", "answer.json", "--coordinator", told)

    def is_let_in(self, key: ec.EllipticCurvePrivateKey) -> bool:
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with hospital(self.port, self.folder / "ca.pem", key) as client:
            try:
                client.ActivateNode(ActivateNodeRequest(public_key=pem, heartbeat_interval=30))
            except httpx.TransportError:
                return False
            except httpx.HTTPStatusError as error:
                # 412: it is online already, as this test's earlier calls told the SuperLink.
                return error.response.status_code == 412
            return True

    @property
    def status(self) -> dict[str, object]:
        done = subprocess.run(
            [FEDWARD, "aggregator", "status", "--json"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return dict(json.loads(done.stdout))

    def file_status(self) -> dict[str, dict[str, int]]:
        with contextlib.suppress(OSError, ValueError):
            return dict(json.loads((self.folder / "state" / "status.json").read_bytes()))
        return {}

    def events(self) -> list[dict[str, str]]:
        lines = (self.folder / "state" / "log.jsonl").read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def starts(self) -> set[tuple[str, str]]:
        return {(event["event"], event.get("run", "")) for event in self.events()}

    def submit(self, name: str) -> None:
        study = settled(parse_study(study_values()))
        (self.folder / "study.json").write_bytes(sign_study(study, self.coordinator))
        self.fedward("submit", "study.json", "--name", name)

    def state_of(self, name: str) -> str:
        record = json.loads((self.folder / "state" / "runs" / name / "run.json").read_bytes())
        return str(record["state"])

    @contextlib.contextmanager
    def at_work(self) -> Iterator[subprocess.Popen[bytes]]:
        """`fedward aggregator start`, until it lets the first hospital in."""
        process = subprocess.Popen(
            [FEDWARD, "aggregator", "start"],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            wait_for(lambda: self.is_let_in(self.keys["Ward A"]) or process.poll() is not None)
            assert process.poll() is None
            yield process
        finally:
            process.terminate()
            _, said = process.communicate(timeout=60)
            assert b"Traceback" not in said, said.decode()
            with contextlib.suppress(OSError):
                _LOG.warning("%s", (self.folder / "state" / "log.jsonl").read_text("utf-8"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    found = House(tmp_path)
    found.enrol()
    return found


def superlink_pid(house: House) -> int:
    return int(house.file_status()["superlink"]["pid"])


def test_hospitals_come_and_go_with_the_roster(house: House) -> None:
    with house.at_work() as process:
        assert house.is_let_in(house.keys["Ward Ä"])
        assert not house.is_let_in(transport_key())

        def both_are_seen() -> bool:
            """While they give signs of life: a SuperLink begun anew knows of no earlier ones."""
            let_in = [house.is_let_in(key) for key in house.keys.values()]
            seen = house.file_status()["hospitals"]
            return all(let_in) and seen == {"Ward A": True, "Ward Ä": True}

        wait_for(both_are_seen)
        text = httpx.get(f"http://127.0.0.1:{house.metrics}/metrics").text
        assert "fedward_hospitals 2.0" in text
        assert 'fedward_gate_answers_total{status="200"}' in text

        house.keys["Ward B"] = transport_key()
        (house.folder / "2.json").write_bytes(house.roster(2, "Ward A", "Ward B"))
        house.fedward("roster", "2.json")

        wait_for(lambda: house.is_let_in(house.keys["Ward B"]))
        wait_for(lambda: not house.is_let_in(house.keys["Ward Ä"]))
        assert house.is_let_in(house.keys["Ward A"])
        assert "was installed already" in house.fedward("roster", "2.json")
        (house.folder / "1.json").write_bytes(house.roster(1, "Ward A"))
        assert "roster 2 is installed" in house.fedward("roster", "1.json", code=2)

        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.terminate()
        assert process.wait(30) == 0
        wait_for(lambda: not any(child.is_running() for child in children), seconds=5)
    assert "does not run" in house.fedward("status", code=1)
    known = {event["event"] for event in house.events()}
    assert {"started", "superlink started", "hospital registered", "hospital removed"} <= known


def test_kill_9_of_the_superlink_and_of_the_service(house: House) -> None:
    with house.at_work() as process:
        wait_for(lambda: house.file_status().get("superlink", {}).get("pid"))
        first = superlink_pid(house)
        assert "runs on this folder already" in house.fedward("start", code=1)

        os.kill(first, signal.SIGKILL)
        wait_for(lambda: superlink_pid(house) not in {0, first} if house.file_status() else False)
        wait_for(lambda: house.is_let_in(house.keys["Ward A"]))
        orphan = psutil.Process(superlink_pid(house))

        process.kill()
        process.wait()
        assert orphan.is_running()
    with house.at_work():
        assert house.is_let_in(house.keys["Ward Ä"])
        assert not orphan.is_running()
        assert house.status["running"] is True


def test_a_run_is_begun_stopped_and_resumed(house: House) -> None:
    """Nobody trains here: each run waits for hospitals, which is not the end of it."""
    house.submit("first")
    house.submit("second")
    house.fedward("stop", "second")
    with house.at_work():
        wait_for(lambda: house.state_of("second") == "stopped")
        assert ("run started", "second") not in house.starts()
        wait_for(lambda: house.state_of("first") == "waiting", seconds=120)
        house.fedward("resume", "second")
        wait_for(lambda: house.state_of("second") == "waiting", seconds=120)
        assert ("run started", "second") in house.starts()
        house.fedward("stop", "second")
        wait_for(lambda: house.state_of("second") == "stopped", seconds=120)
        assert house.state_of("first") == "waiting"

    listed = json.loads(house.fedward("runs", "--json"))
    assert [record["name"] for record in listed] == ["first", "second"]
    assert "first" in house.fedward("runs")


def test_a_table_of_statistics_is_for_studies_that_ask(house: House) -> None:
    house.submit("first")
    told = house.fedward("submit", "study.json", "--statistics", code=2)
    assert "asks for no statistics" in told
    assert "there is no table of the run" in house.fedward("statistics", "first", code=2)
    found = Statistics(
        fewest=5, patients=40, numbers={}, categories={"sex": {"f": 30, "m": 10}}, classes={}
    )
    folder = next(house.folder.rglob("first/run.json")).parent
    (folder / "statistics.json").write_text(found.model_dump_json())
    assert "40 training patients of all hospitals" in house.fedward("statistics", "first")
    (folder / "statistics.json").write_text("{")
    assert "cannot be read" in house.fedward("statistics", "first", code=2)


def test_what_the_coordinator_did_not_sign_is_not_installed(house: House) -> None:
    stranger = Identity.generate()
    study = settled(parse_study(study_values()))
    (house.folder / "forged.json").write_bytes(sign_study(study, stranger))
    roster = sign_roster(Roster(9, {"Ward A": stranger.public}), stranger)
    (house.folder / "forged-roster.json").write_bytes(roster)
    before = (house.folder / "roster.json").read_bytes()

    assert "forged.json: " in house.fedward("submit", "forged.json", code=2)
    (house.folder / "study.toml").write_text("[study]\n", "utf-8")
    assert "fedward consortium sign" in house.fedward("submit", "study.toml", code=2)
    assert "forged-roster.json: " in house.fedward("roster", "forged-roster.json", code=2)
    wrong = fingerprint(stranger.public)
    house.fedward("enroll", "--answer", "answer.json", "--coordinator", wrong, code=2)

    assert (house.folder / "roster.json").read_bytes() == before
    assert house.fedward("runs", "--json").strip() == "[]"
    assert (house.folder / "tls-key.pem").stat().st_mode & 0o077 == 0
    assert "there is no run nobody" in house.fedward("stop", "nobody", code=2)
