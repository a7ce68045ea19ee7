"""The hospital's page: what stands there is the hospital's own, and what it does is asked for."""

from __future__ import annotations

import html
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from fedward.client.auditing import LOG
from fedward.client.hospital import write_hospital
from fedward.client.page import hospital_view
from fedward.client.page.application import application
from fedward.client.page.hospital_view import Looking
from fedward.client.page.processors import Gpu, _gpu, this_machine
from fedward.client.page.remembered import Remembered
from fedward.client.service import open_audit_log
from fedward.client.study_words import asked_by
from fedward.models.registry import settled
from fedward.privacy.log_head import head_of
from fedward.study.errors import InputError
from fedward.study.study import Study
from fedward.web.served_page import ServedPage
from tests.enrolled import Enrolled, enrol
from tests.secure_sites import study_of

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def home(tmp_path: Path) -> Enrolled:
    (found,) = enrol(tmp_path, "north")
    found.state.mkdir(exist_ok=True)
    return found


@pytest.fixture
def web(home: Enrolled) -> Iterator[httpx.Client]:
    with (
        ServedPage(application(home.path), home.state, port=0, name="hospital") as page,
        httpx.Client(base_url=f"http://127.0.0.1:{page.port}", trust_env=False) as client,
    ):
        client.get(page.address)
        yield client


def text_of(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def csrf_of(page: str) -> str:
    return str(re.findall(r'name="csrf" value="([^"]+)"', page)[0])


def soon(web: httpx.Client, words: str) -> str:
    """The page, once it has these words."""
    last = time.monotonic() + 60
    while words not in (text := text_of(web.get("/").text)):
        assert time.monotonic() < last, text
        time.sleep(0.1)
    return text


def offered(home: Enrolled) -> Study:
    study = settled(study_of(study={"name": "asks", "title": f"A title {HOSTILE}"}))
    home.offer(study)
    return study


def test_a_study_is_told_with_every_thing_that_it_asks(web: httpx.Client, home: Enrolled) -> None:
    study = offered(home)
    page = web.get("/").text
    text = html.unescape(text_of(page))
    for about, words in asked_by(study, study.digest(), home.file().limits):
        assert f"{about} {words}" in text
    assert HOSTILE not in page
    assert study.digest() in page
    assert "No daemon runs" in text


def test_a_daemon_that_does_not_answer_is_not_called_absent(
    web: httpx.Client, home: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = offered(home)
    (home.state / "control").mkdir()
    monkeypatch.chdir(home.state / "control")  # a socket's whole path may be too long
    assert hospital_view._PATIENCE <= 5
    monkeypatch.setattr(hospital_view, "_PATIENCE", 0.3)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("socket")
        silent.listen()
        page = web.get("/", timeout=20).text
    assert "is not known" in text_of(page)
    assert "No daemon runs" not in text_of(page)
    assert study.digest() in page  # and what is known is shown all the same


def test_studies_that_cannot_be_read_are_not_called_none(
    web: httpx.Client, home: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InputError("they cannot be read", todo="look")

    monkeypatch.setattr(hospital_view, "known_studies", fail)
    text = text_of(web.get("/").text)
    assert "they cannot be read" in text
    assert "no study trains here" not in text
    assert text.count("Not known.") == 2
    assert "No daemon runs" in text


def test_approving_and_withdrawing(web: httpx.Client, home: Enrolled) -> None:
    digest = offered(home).digest()
    csrf = csrf_of(web.get("/").text)
    form = {"csrf": csrf, "digest": digest}
    unread = web.post("/approve", data=form, follow_redirects=True)
    assert "say that you have read" in unread.text
    assert list(home.studies.glob("*.toml")) == []
    done = web.post("/approve", data={**form, "read": "yes"}, follow_redirects=True)
    (file,) = home.studies.glob("*.toml")
    assert str(file) in done.text
    assert "What it asks" in done.text
    assert "Approved;" not in web.get("/").text  # said once
    done = web.post("/revoke", data=form, follow_redirects=True)
    assert "No longer approved" in done.text
    assert not file.exists()
    again = web.post("/revoke", data=form, follow_redirects=True)
    assert "is not approved" in again.text


def test_nothing_is_approved_without_the_page_s_own_secret(
    web: httpx.Client, home: Enrolled
) -> None:
    digest = offered(home).digest()
    csrf = csrf_of(web.get("/").text)
    whole = {"csrf": csrf, "digest": digest, "read": "yes"}
    assert web.post("/approve", data={**whole, "csrf": "x"}).status_code == 403
    assert web.post("/approve", data=whole, headers={"Origin": "http://a.org"}).status_code == 403
    assert web.post("/approve", data=whole, headers={"Host": "a.org"}).status_code == 421
    assert web.get("/approve", params=whole).status_code == 405
    assert list(home.studies.glob("*.toml")) == []


@pytest.mark.parametrize("digest", ["", "../x", "0" * 64, "{first}", "A" * 64])
def test_only_a_whole_digest_of_an_offer_is_approved(
    web: httpx.Client, home: Enrolled, digest: str
) -> None:
    known = offered(home).digest()
    csrf = csrf_of(web.get("/").text)
    form = {"csrf": csrf, "digest": digest.format(first=known[:16]), "read": "yes"}
    answer = web.post("/approve", data=form, follow_redirects=True)
    assert answer.status_code == 200
    assert 'class="wrong">' in answer.text
    assert list(home.studies.glob("*.toml")) == []


def test_a_budget_that_nobody_spent_is_whole(web: httpx.Client, home: Enrolled) -> None:
    file = home.file()
    limits = file.limits.model_copy(update={"epsilon": 3.0, "delta": 1e-3})
    write_hospital(file.model_copy(update={"limits": limits}), home.path)
    assert "Epsilon 0.000 of 3 at delta 0.001 is spent" in soon(web, "is left")


@pytest.mark.slow
def test_the_audit_log_is_checked_line_by_line(web: httpx.Client, home: Enrolled) -> None:
    log = open_audit_log(home.file(), home.folder)
    for number in range(3):
        log.append("train", "in", study="0" * 64, run=f"run-{number}", round=1, size=7)
    log.close()
    text = soon(web, "4 lines, each signed and in its place")
    assert "came train, round 1 of run-2" in text
    path = home.state / LOG
    path.write_bytes(path.read_bytes().replace(b"run-1", b"run-9"))
    assert "each signed" not in soon(web, "line 3")


def test_a_log_that_was_taken_away_is_not_one_that_nobody_wrote(
    web: httpx.Client, home: Enrolled
) -> None:
    open_audit_log(home.file(), home.folder).close()
    (home.state / LOG).unlink()
    assert "each signed" not in soon(web, "the audit log cannot be used")


def test_a_log_that_nobody_wrote_is_not_called_good(web: httpx.Client) -> None:
    assert "each signed" not in soon(web, "No line was written yet")


def test_a_log_is_checked_again_when_its_head_changes(home: Enrolled) -> None:
    open_audit_log(home.file(), home.folder).close()
    looking = Looking(home.path)
    until(lambda: looking.look().audit)
    looking._audit._last = 0.0  # the pause is over
    head_of(home.state / LOG).write_text("{}")
    until(lambda: "cannot be read" in getattr(looking.look().audit, "trouble", ""))


def test_a_broken_hospital_file_does_not_end_the_page(web: httpx.Client, home: Enrolled) -> None:
    before = home.path.read_text()
    home.path.write_text("nonsense = 1\n" + before)
    answer = web.get("/")
    assert answer.status_code == 500
    assert "nonsense" in answer.text
    with web.stream("GET", "/events", timeout=20) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: trouble"
        assert "nonsense" in next(lines)
    home.path.write_text(before)
    assert web.get("/").status_code == 200


def test_slow_things_are_found_out_aside_and_once() -> None:
    found: list[int] = []

    def find() -> int:
        found.append(len(found))
        return len(found)

    slow = Remembered(find, lambda why: -1, pause=0.05)
    assert slow.value(("a",)) is None
    until(lambda: slow.value(("a",)) == 1)
    time.sleep(0.1)
    assert slow.value(("a",)) == 1
    until(lambda: slow.value(("b",)) == 2)
    assert len(found) == 2


def test_trouble_takes_the_place_of_what_was_found_before() -> None:
    found: list[Exception] = []

    def find() -> str:
        if found:
            raise found[0]
        return "good"

    slow = Remembered(find, lambda why: f"trouble: {why}", pause=0.05)
    until(lambda: slow.value(("a",)) == "good")
    found.append(OSError("no disk"))
    until(lambda: "no disk" in (slow.value(("b",)) or ""))
    found[0] = InputError("no file", todo="write it")
    until(lambda: "no file; write it" in (slow.value(("b",)) or ""))  # looked at again
    found.clear()
    until(lambda: slow.value(("b",)) == "good")


def test_a_look_that_fails_is_shown_in_words(
    web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("no such figure")

    monkeypatch.setattr(psutil, "virtual_memory", fail)
    text = soon(web, "no such figure")
    assert "processor cores" not in text
    assert "No NVIDIA GPU" not in text


def test_a_driver_s_line_is_read_as_figures() -> None:
    line = "NVIDIA H200, 34, 1024, 143771, 41"
    assert _gpu(line) == Gpu("NVIDIA H200", 34.0, 1024.0, 143771.0, 41.0)
    assert _gpu("Tesla, [N/A], 1, 2, [Not Supported]") == Gpu("Tesla", None, 1.0, 2.0, None)


def test_a_driver_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    machine = this_machine()
    assert machine.gpus == ()
    assert "nvidia-smi does not answer" in machine.trouble
    assert machine.total > 0


def test_studies_are_read_again_only_when_a_file_changed(home: Enrolled) -> None:
    looking = Looking(home.path)
    assert looking.look().offered == []
    study = offered(home)
    first, second = looking.look().offered, looking.look().offered
    assert [one.digest for one in first] == [study.digest()]
    assert first[0] is second[0]


def until(true: Callable[[], object]) -> None:
    last = time.monotonic() + 20
    while not true():
        assert time.monotonic() < last
        time.sleep(0.02)
