"""The worker as a real process: what ends it, and what does not."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
from flwr.app import ConfigRecord, RecordDict

from fedward.client.letter import CHUNK_VARIABLE, Letter, reply_to, unpack
from fedward.client.worker import Worker, WorkerLost
from fedward.study.freed_memory import FREED_STAYS
from fedward.study.messages import Advertised, Refusal
from fedward.study.wire import unpack_answer
from tests.client.conftest import House
from tests.client.test_daemon import letter

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(house: House) -> Iterator[Worker]:
    text = 'name = "north"\ndevice = "cpu"\n[data]\nformat = "csv"\npath = "t.csv"\n'
    (house.folder / "hospital.toml").write_text(text, encoding="utf-8")
    worker = Worker(house.folder / "hospital.toml", deadline=60)
    yield worker
    worker.stop()


def refusal_of(answer: Letter) -> Refusal:
    found = unpack_answer(unpack(answer).content)
    assert isinstance(found, Refusal), found
    return found


def gone(pid: int, *, seconds: float = 15.0) -> bool:
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_junk_is_refused_by_the_same_process(worker: Worker) -> None:
    question = letter()
    nameless = Letter(question.head, question.tree, {})
    torn = Letter(question.head, question.tree, {name: b"x" * 9 for name in question.objects})
    worker.start()
    process = worker.pid

    for junk in (nameless, torn, question, reply_to(question, RecordDict())):
        refusal_of(worker.ask(junk))
    assert worker.pid == process


def test_a_process_that_died_while_idle_is_replaced_unnoticed(worker: Worker) -> None:
    worker.ask(letter())
    process = worker.pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    time.sleep(0.2)

    refusal_of(worker.ask(letter()))
    assert worker.pid not in (None, process)


def test_signals_that_are_meant_for_the_daemon_do_not_end_it(worker: Worker) -> None:
    worker.ask(letter())
    process = worker.pid
    assert process is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(process, number)

    refusal_of(worker.ask(letter()))
    assert worker.pid == process


def test_a_question_that_is_too_slow_ends_it(house: House, worker: Worker) -> None:
    hasty = Worker(house.folder / "hospital.toml", deadline=1e-6)
    try:
        with pytest.raises(WorkerLost, match=r"longer than 1e-06 s"):
            hasty.ask(letter())
        assert hasty.pid is None
    finally:
        hasty.stop()


def test_when_nobody_waits_any_more_the_work_is_ended(worker: Worker) -> None:
    """The worker's own deadline is a minute."""
    with pytest.raises(WorkerLost, match=r"longer than 1e-06 s"):
        worker.ask(letter(), 1e-6)
    assert worker.pid is None

    refusal_of(worker.ask(letter(), 60.0))


def test_a_hospital_that_cannot_be_opened_loses_the_question_only(house: House) -> None:
    (house.folder / "hospital.toml").write_text("name = 3\n", encoding="utf-8")
    worker = Worker(house.folder / "hospital.toml", deadline=60)
    try:
        with pytest.raises(WorkerLost, match="exit code"):
            worker.ask(letter())
    finally:
        worker.stop()


def test_stopping_it_ends_the_process(worker: Worker) -> None:
    worker.ask(letter())
    process = worker.pid
    assert process is not None
    worker.stop()

    assert worker.pid is None
    assert gone(process)


def test_answers_are_no_pickles(worker: Worker) -> None:
    answer = worker.ask(letter())

    assert not any(content.startswith(b"\x80") for content in answer.objects.values())
    assert not isinstance(unpack_answer(unpack(answer).content), Advertised)
    assert ConfigRecord(dict(answer.terms))["hospital"] == "north"


def test_a_process_that_cannot_be_started_costs_the_question_only(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    open_files = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr("subprocess.Popen", full)
        worker.start()  # as the daemon does at its own start
        with pytest.raises(WorkerLost, match="cannot be started"):
            worker.ask(letter())
        assert worker.pid is None
        assert len(os.listdir("/proc/self/fd")) == open_files

    refusal_of(worker.ask(letter()))


def test_the_size_of_pieces_is_ours_whatever_the_environment_says(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHUNK_VARIABLE, "1")
    worker.start()

    assert worker.pid is not None
    assert psutil.Process(worker.pid).environ()[CHUNK_VARIABLE] == str(8 << 20)


def test_freed_memory_stays_with_the_process_unless_the_environment_says_otherwise(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trim, *others) = FREED_STAYS
    for name in others:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(trim, "1000000")
    worker.start()

    assert worker.pid is not None
    found = psutil.Process(worker.pid).environ()
    assert {name: found[name] for name in FREED_STAYS} == {**FREED_STAYS, trim: "1000000"}
