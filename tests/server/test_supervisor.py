"""The supervisor's duties, with a SuperLink that a test plays."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fedward.server.aggregator import Aggregator
from fedward.server.durable import write_aside
from fedward.server.state_lock import is_running, only_one
from fedward.server.supervisor import Pace, Supervisor
from fedward.study.errors import ServiceError
from tests.server.supervised import PACE, Post, enrolled
from tests.superlink_ward import free_port, until


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
