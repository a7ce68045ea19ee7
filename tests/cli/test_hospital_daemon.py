"""`fedward hospital start` and all that is asked of it, as real processes; nobody answers them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.client.auditing import Auditing
from fedward.client.happenings import Asked, Leaving
from fedward.client.service import open_audit_log
from fedward.client.spending import Counted, note_spent
from fedward.privacy.audit_log import AuditLog
from fedward.study.errors import InputError
from fedward.study.study import Study
from tests.cli.conftest import COMMAND, Fedward
from tests.enrolled import Enrolled, enrol

StudyWith = Callable[[Mapping[str, object]], Study]


@pytest.fixture
def hospitals() -> Iterator[list[Enrolled]]:
    with TemporaryDirectory() as folder:
        yield enrol(Path(folder), "north", "south")


@pytest.fixture
def north(hospitals: list[Enrolled]) -> Enrolled:
    return hospitals[0]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def daemon(hospital: Enrolled, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A running daemon, once its socket answers."""
    with subprocess.Popen(
        [COMMAND, "hospital", "start", "--hospital", hospital.path, *words],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        text=True,
    ) as process:
        try:
            last = time.monotonic() + 60
            while not (hospital.state / "control" / "socket").exists():
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < last
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def said(hospital: Enrolled, *words: str) -> str:
    """What a command prints, in this process: torch takes seconds to import."""
    command = ["hospital", *words, "--hospital", str(hospital.path)]
    return CliRunner().invoke(app, command, catch_exceptions=False).stdout


def ended(process: subprocess.Popen[str]) -> list[str]:
    """What it wrote; it must end well."""
    _, lines = process.communicate(timeout=60)
    assert process.returncode == 0, lines
    return lines.splitlines()


@pytest.mark.slow
def test_a_daemon_is_started_asked_and_stopped(fedward: Fedward, north: Enrolled) -> None:
    which = ("--hospital", north.path)
    port = free_port()
    north.add("daemon", {"metrics_port": port})
    with daemon(north) as process:
        second = fedward("hospital", "start", *which)
        assert "another daemon runs" in second.only_error()
        status = fedward("hospital", "status", *which)
        values = json.loads(fedward("hospital", "status", *which, "--json").out)
        page = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        stopped = fedward("hospital", "stop", *which)
        lines = ended(process)

    assert status.out.startswith("north: ")
    assert "because     127.0.0.1:9: it cannot be reached" in status.out
    assert (values["state"], values["process"], values["healthy"]) == (
        *("disconnected", process.pid, False),
    )
    assert "fedward_connected 0.0" in page
    assert stopped.out == "stopped\n"
    assert "not connected: 127.0.0.1:9" in lines[0]
    assert lines[-1].endswith("INFO stopped")
    assert not (north.state / "control" / "socket").exists()
    assert "no daemon runs" in fedward("hospital", "status", *which).only_error(code=1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_its_log_is_json(
    north: Enrolled, number: signal.Signals
) -> None:
    with daemon(north, "--json-log") as process:
        process.send_signal(number)
        lines = [json.loads(line) for line in ended(process)]

    assert [line["event"] for line in lines][-1] == "stopped"
    assert all({"at", "level", "logger", "text"} <= set(line) for line in lines)


@pytest.mark.slow
def test_watch_shows_events_until_the_daemon_ends(north: Enrolled) -> None:
    with daemon(north) as process:
        with subprocess.Popen(
            [COMMAND, "hospital", "watch", "--json", "--hospital", north.path],
            stdout=subprocess.PIPE,
            text=True,
        ) as watching:
            time.sleep(2)
            process.terminate()
            out, _ = watching.communicate(timeout=60)
        ended(process)

    assert watching.returncode == 0
    assert json.loads(out.splitlines()[-1])["event"] == "stopped"


@pytest.mark.slow
def test_a_study_is_approved_with_a_daemon_and_without_one(
    north: Enrolled, study_with: StudyWith
) -> None:
    digest = north.offer(study_with({"privacy": {"mode": "off"}}))

    shown = said(north, "approve", digest[:12], "--yes")
    assert "columns age, sex; the label diagnosis" in shown
    assert "NO differential privacy" in shown
    assert "approved by tiny-" in said(north, "studies")
    said(north, "revoke", digest[:12])

    with daemon(north):
        assert "offered" in said(north, "studies")
        assert said(north, "approve", digest[:12], "--yes").splitlines()[-1].startswith("approved:")
        assert "approved already" in said(north, "approve", digest[:12])
        said(north, "revoke", digest)
        with pytest.raises(InputError, match="is not approved"):
            said(north, "revoke", digest)


def test_nobody_who_answers_approves_nothing(
    fedward: Fedward, north: Enrolled, study_with: StudyWith
) -> None:
    digest = north.offer(study_with({}))

    found = fedward("hospital", "approve", digest, "--hospital", north.path)

    assert found.code == 2
    assert "nobody answered" in found.errors[0]
    assert list(north.studies.glob("*.toml")) == []


@pytest.mark.parametrize(("word", "approved"), [("n\n", 0), ("y\n", 1), ("\n", 0)])
def test_a_study_is_approved_only_by_a_yes(
    north: Enrolled, study_with: StudyWith, word: str, approved: int
) -> None:
    digest = north.offer(study_with({}))
    words = ["hospital", "approve", digest, "--hospital", str(north.path)]

    CliRunner().invoke(app, words, input=word)

    assert len(list(north.studies.glob("*.toml"))) == approved


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("approve", "zz"), "no digest"),
        (("approve", "ab" * 32), "0 studies begin"),
        (("revoke", "ab" * 32), "0 studies begin"),
        (("log", "verify"), "audit log cannot be used"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    fedward: Fedward, north: Enrolled, words: tuple[str, ...], told: str
) -> None:
    assert told in fedward("hospital", *words, "--hospital", north.path).only_error()


def test_a_hospital_that_is_not_there_is_one_line(fedward: Fedward) -> None:
    for command in ("start", "status"):
        assert (
            fedward("hospital", command)
            .only_error()
            .endswith("hospital.toml: no such hospital file; check the path")
        )


def test_a_pretended_hospital_cannot_start(fedward: Fedward, north: Enrolled) -> None:
    """Its noise could be drawn again by whoever knows the seed."""
    with north.path.open("a", encoding="utf-8") as file:
        file.write("\n[simulation]\nseed = 1\n")

    error = fedward("hospital", "start", "--hospital", north.path).only_error()

    assert "simulation" in error
    assert "protects nobody" in error


def test_a_hospital_that_did_not_enrol_cannot_start(fedward: Fedward, tmp_path: Path) -> None:
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "csv"\npath = "x.csv"\n', encoding="utf-8"
    )
    assert "consortium.address" in fedward("hospital", "start").only_error()


def answered(hospital: Enrolled, model: str, count: int = 3) -> None:
    """What the daemon's listener writes in a few rounds."""
    log = open_audit_log(hospital.file(), hospital.folder)
    listener = Auditing(log, "data", hospital.state)
    for number in range(1, count + 1):
        asked = Asked("train", "ab" * 32, "run-1", number, 9, "cd" * 32, f"{model}{number:063}")
        note_spent(hospital.state, "data", Counted(number / 2, asked.study, asked.run))
        listener(asked)
        listener(Leaving(asked, 7, "ef" * 32, ""))
    log.close()


def test_two_hospitals_views_are_proved_and_agree(
    fedward: Fedward, hospitals: list[Enrolled]
) -> None:
    north, south = hospitals
    answered(north, "a", 3)
    answered(south, "a", 2)
    verify = ("hospital", "log", "verify", "--hospital", north.path)

    alone = fedward(*verify)
    both = fedward(*verify, "--against", south.state / "audit.jsonl")

    assert alone.out.startswith("good: 7 lines, each signed")
    assert both.code == 0, both.err
    assert "both contributed to 2 exchanges; only north to 1, only south to 0" in both.out
    assert "no contradiction" in both.out
    line = json.loads((north.state / "audit.jsonl").read_bytes().splitlines()[-1])["entry"]
    assert (line["epsilon"], line["direction"], line["round"]) == (1.5, "out", 3)


def test_contradictions_are_named_and_end_with_1(
    fedward: Fedward, hospitals: list[Enrolled]
) -> None:
    north, south = hospitals
    answered(north, "a", 2)
    answered(south, "b", 2)

    log = south.state / "audit.jsonl"
    found = fedward("hospital", "log", "verify", "--hospital", north.path, "--against", log)

    assert found.code == 1
    assert found.out.count("contradiction: run run-1, round") == 2
    assert "2 contradictions" in found.errors[0]


def test_a_log_under_anothers_name_is_noticed(fedward: Fedward, hospitals: list[Enrolled]) -> None:
    """The aggregator has neither key: it cannot forge a view of a member, or be one."""
    north, south = hospitals
    answered(north, "a")
    forged = north.folder / "forged"
    AuditLog(forged, "south", north.identity()).close()
    AuditLog(north.folder / "stranger", "west", north.identity()).close()
    verify = ("hospital", "log", "verify", "--hospital", north.path, "--against")

    assert "line 1 " in fedward(*verify, forged).errors[0]
    assert "not in the roster" in fedward(*verify, north.folder / "stranger").errors[0]
    key = south.identity().public.hex()
    assert "line 1 " in fedward(*verify, north.folder / "stranger", "--key", key).errors[0]
    assert "no public key" in fedward(*verify, forged, "--key", "ab").errors[0]


def test_an_earlier_copy_must_be_the_beginning(
    fedward: Fedward, hospitals: list[Enrolled], tmp_path: Path
) -> None:
    north = hospitals[0]
    log = north.state / "audit.jsonl"
    answered(north, "a", 1)
    (tmp_path / "copy").write_bytes(log.read_bytes())
    answered(north, "a", 2)
    verify = ("hospital", "log", "verify", "--hospital", north.path, "--against", "copy")
    assert "is the beginning of this log, 3 lines" in fedward(*verify).out

    log.unlink()
    (north.state / "audit.jsonl.head").unlink()
    answered(north, "a", 2)
    assert "line 1 " in fedward(*verify).errors[0]


def test_a_changed_line_is_named(fedward: Fedward, north: Enrolled) -> None:
    answered(north, "a")
    log = north.state / "audit.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"round":1', b'"round":2')
    log.write_bytes(b"".join(lines))

    found = fedward("hospital", "log", "verify", "--hospital", north.path)
    assert "line 3 " in found.only_error(code=1) or "line 4 " in found.only_error(code=1)
