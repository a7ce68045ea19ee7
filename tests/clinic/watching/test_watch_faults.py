"""A kill, a full disk, a fault, a damaged file, or more records than can be counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fedward.clinic.watching.counts import Kept
from fedward.clinic.watching.folder import read
from fedward.clinic.watching.gauges import WatchGauges
from fedward.clinic.watching.kept_scores import Bounds
from fedward.study.errors import DataError
from tests.clinic.watching.conftest import Begin, alarms, fed, pictures, said_of

ROOT = Path(__file__).resolve().parents[3]

_COUNTING = """
import sys, time
from pathlib import Path
import fedward.clinic.watching.watch as module
from tests.clinic.watching.conftest import STUDY, pictures, reference, said_of

module._SAVE = 0.0  # all the time
model = module.Model("chest", STUDY, None, 0.5)
watch = module.Watch(model, reference(), Path(sys.argv[1]), window=10**9)
inputs = pictures(5, 3)
print("begun", flush=True)
while True:
    watch.saw(inputs, said_of(inputs))
    time.sleep(0.0005)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_write_loses_nothing_that_was_written(
    tmp_path: Path, begin: Begin
) -> None:
    folder, last = tmp_path / "watched", 0
    for number in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", _COUNTING, str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            time.sleep(0.2 + 0.013 * number)
            seen = _records(folder)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
        now = _records(folder)
        assert now >= seen > last or seen == last == 0
        last = now
    watch = begin(folder=folder, window=10**9)  # and it goes on
    fed(watch, 50, 1)
    watch.close()

    assert _records(folder) == last + 50
    assert [path.name for path in folder.glob(".*")] == []


def _records(folder: Path) -> int:
    kept = read(folder / "chest.counts.json", Kept)
    if kept is None:
        return 0
    assert sum(kept.now[0]) == kept.records[1]
    return sum(kept.records)


def test_a_disk_that_is_full_is_said_once_and_answers_go_on(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = begin()
    monkeypatch.setattr("fedward.clinic.watching.watch._SAVE", 0.01)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("fedward.clinic.watching.watch.write", full)
        for number in range(20):
            fed(watch, 50, number)
            time.sleep(0.02)
    assert [line for line in caplog.messages if "No space" in line] == [
        "model chest: cannot write what was counted (No space left on device)"
    ]
    watch.close()
    assert read(watch.files.counts, Kept) is not None


def test_a_fault_of_the_comparison_is_said_once_and_counting_goes_on(
    begin: Begin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watch = begin()
    registry = CollectorRegistry()
    registry.register(WatchGauges([watch]))
    works = 'fedward_watch_works{model="chest"}'
    assert f"{works} 1.0" in generate_latest(registry).decode()

    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("a value of patient-4711")

    with monkeypatch.context() as comparison:
        comparison.setattr("fedward.clinic.watching.watch.drift_of", broken)
        fed(watch, 200, 100, brighter=0.2)
        until = time.monotonic() + 10
        while watch._waiting and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.05)
        assert f"{works} 0.0" in generate_latest(registry).decode()
        assert [*watch.shown] == []
    assert watch._thread.is_alive()
    fed(watch, 1, 900, brighter=0.2)
    until = time.monotonic() + 10
    while not watch.works and time.monotonic() < until:
        time.sleep(0.001)
    assert f"{works} 1.0" in generate_latest(registry).decode()
    watch.close()

    assert "mean" in alarms(watch)
    assert {drift.records for drift in watch.shown} == {201}
    assert watch.missed == 0
    assert [line for line in caplog.messages if "cannot" in line] == [
        "model chest: cannot compare what was counted (FloatingPointError)"
    ]
    assert f"{works} 0.0" in generate_latest(registry).decode(), "nobody counts any more"


def test_a_damaged_file_is_refused_by_its_name(begin: Begin) -> None:
    watch = begin()
    watch.close()
    watch.files.counts.write_text('{"format": 1}')
    with pytest.raises(DataError, match="cannot be read") as found:
        begin()
    assert "counts.json" in found.value.line()


def test_records_that_come_too_fast_are_counted_as_missed(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedward.clinic.watching.watch._WAITING", 1)
    watch = begin()
    many = np.repeat(pictures(50, 1), 20, axis=0)
    for _ in range(20):
        watch.saw(many, said_of(many))
    watch.close()
    kept = read(watch.files.counts, Kept)

    assert kept is not None
    assert watch.missed > 0
    assert watch.missed % 1000 == 0
    assert kept.missed == watch.missed


def test_small_records_that_wait_have_a_bound_too(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedward.clinic.watching.watch._WAITING", 100 << 10)
    watch, gate = begin(keep=Bounds(100, 30)), threading.Event()

    def slow(*_: object) -> list[np.ndarray]:
        gate.wait(30)
        return [np.zeros(1, np.int64) for _ in watch._histograms]

    monkeypatch.setattr("fedward.clinic.watching.watch.placed", slow)
    for number in range(300):
        watch.saw(np.zeros((1, 1), np.float32), np.zeros((1, 2), np.float32), f"{number}")
    missed = watch.missed
    gate.set()
    watch.close()

    assert 190 <= missed <= 202


def test_damaged_figures_are_said_once(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    watch = begin()
    works = [(watch.figures(), watch.works)]
    watch.files.figures.write_text('{"records": -')
    works += [(watch.figures(), watch.works) for _ in range(3)]
    watch.files.figures.unlink()
    works += [(watch.figures(), watch.works)]
    assert works == [(None, True), *[(None, False)] * 3, (None, True)]
    assert [line for line in caplog.messages if "cannot" in line] == [
        "model chest: cannot read what labels say (DataError)"
    ]


def test_an_end_waits_for_no_more_than_it_may(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = begin()

    def slow(*_: object) -> list[np.ndarray]:
        time.sleep(0.05)
        return [np.zeros(1, np.int64) for _ in watch._histograms]

    monkeypatch.setattr("fedward.clinic.watching.watch.placed", slow)
    inputs = pictures(1, 5)
    for _ in range(1000):
        watch.saw(inputs, said_of(inputs))
    began = time.monotonic()
    watch.close(within=2)
    assert time.monotonic() - began < 2
    kept = read(watch.files.counts, Kept)

    assert kept is not None
    assert kept.missed > 900
    assert sum(kept.records) + kept.missed == 1000
