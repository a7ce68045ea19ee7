"""What is counted, what is shown of it, and what is left after a restart or a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fedward.clinic.watching.begin import Wanted, close
from fedward.clinic.watching.begin import begin as begin_all
from fedward.clinic.watching.counts import Kept
from fedward.clinic.watching.folder import About, read
from fedward.clinic.watching.gauges import WatchGauges
from fedward.clinic.watching.kept_scores import Bounds, KeptScores, digest_of, said_under
from fedward.clinic.watching.reference import Reference
from fedward.clinic.watching.told import watching
from fedward.clinic.watching.watch import Model, Watch
from fedward.study.errors import DataError, OptionError
from tests.clinic.watching.conftest import STUDY, Begin, pictures, reference, said_of

ROOT = Path(__file__).resolve().parents[3]


def fed(watch: Watch, count: int, seed: int, *, brighter: float = 0.0, sign: float = 1.0) -> None:
    for start in range(0, count, 50):
        inputs = (sign * pictures(min(50, count - start), seed + start, brighter=brighter)).copy()
        watch.saw(inputs, said_of(inputs), f"request-{seed}-{start}")


def alarms(watch: Watch) -> set[str]:
    return {drift.name for drift in watch.shown if drift.alarm}


def test_records_like_those_of_training_raise_no_alarm(begin: Begin) -> None:
    watch = begin()
    fed(watch, 400, 100)
    watch.close()

    assert alarms(watch) == set()
    assert {drift.name for drift in watch.shown} == {"mean", "deviation", "low", "high", "ill"}
    assert all(drift.psi < 0.2 and drift.records == 400 for drift in watch.shown)


@pytest.mark.parametrize(
    ("brighter", "sign", "found"),
    [(0.2, 1.0, {"mean", "low", "high", "ill"}), (0.0, -1.0, {"mean", "low", "high", "ill"})],
    ids=["brighter", "inverted"],
)
def test_drifted_ones_do(
    brighter: float, sign: float, found: set[str], begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    watch = begin()
    with caplog.at_level(logging.INFO, logger="fedward.serving"):
        fed(watch, 200, 100, brighter=brighter, sign=sign)
        watch.close()

    assert alarms(watch) >= found
    assert sum("not what it was trained on" in line for line in caplog.messages) >= len(found)
    assert "request-" not in caplog.text


def test_what_was_long_ago_does_not_hide_a_drift(begin: Begin) -> None:
    watch = begin(window=100)
    fed(watch, 5000, 100)
    fed(watch, 200, 9000, brighter=0.2)
    watch.close()

    assert "mean" in alarms(watch)
    assert all(drift.records <= 200 for drift in watch.shown)


def test_a_restart_keeps_the_counts(begin: Begin, tmp_path: Path) -> None:
    whole = begin(folder=tmp_path / "whole")
    fed(whole, 300, 100)
    whole.close()
    fed(first := begin(), 150, 100)
    first.close()
    second = begin()
    before = second.shown
    for start in (150, 200, 250):
        inputs = pictures(50, 100 + start)
        second.saw(inputs, said_of(inputs))
    second.close()

    assert before == first.shown != ()
    assert second.shown == whole.shown
    one, other = (read(watch.files.counts, Kept) for watch in (whole, second))
    assert one == other
    assert one is not None
    assert sum(one.now[0]) == 300


def test_nothing_is_shown_of_few_records_and_it_moves_by_as_many(begin: Begin) -> None:
    watch = begin()
    inputs = pictures(500, 7)
    shown = []
    for number in range(0, 45):
        one = inputs[number : number + 1]
        watch.saw(one, said_of(one))
        until = time.monotonic() + 10
        while watch._waiting and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(0.002)
        shown.append(watch.shown)
    watch.close()

    counted = [drifts[0].records if drifts else 0 for drifts in shown]
    assert counted[:9] == [0] * 9
    assert set(counted) == {0, 10, 20, 30, 40}
    changes = sum(one != other for one, other in pairwise(shown))
    assert changes == 4
    told = watching(watch.files.counts.parent, "chest")
    assert {drift.records for drift in told.drifts} == {40}


def test_the_figures_for_prometheus_are_those_that_may_be_shown(begin: Begin) -> None:
    watch = begin()
    registry = CollectorRegistry()
    registry.register(WatchGauges([watch]))
    assert "fedward_watch_psi{" not in generate_latest(registry).decode()
    fed(watch, 200, 100, brighter=0.2)
    watch.close()
    text = generate_latest(registry).decode()

    assert 'fedward_watch_alarm{feature="mean",kind="number",model="chest"} 1.0' in text
    assert 'fedward_watch_records{feature="ill",kind="score",model="chest"} 200.0' in text
    assert 'fedward_watch_missed_records_total{model="chest"} 0.0' in text
    assert "request-" not in text


def test_no_record_and_no_id_is_in_any_file(begin: Begin) -> None:
    watch = begin(keep=Bounds(100, 30))
    inputs = pictures(1, 5)
    watch.saw(inputs, said_of(inputs), "patient-4711")
    fed(watch, 100, 100)
    watch.close()

    value = repr(float(inputs[0, 0, 0, 0])).encode()
    pieces: list[bytes] = [b"4711", b"request-", inputs[0, 0, 0, :3].tobytes(), value]
    for path in watch.files.counts.parent.iterdir():
        content = path.read_bytes()
        for piece in pieces:
            assert piece not in content, path
        assert path.stat().st_mode & 0o077 == 0, path
    assert watch.files.counts.parent.stat().st_mode & 0o077 == 0
    assert set(json.loads(watch.files.counts.read_text())) == set(Kept.model_fields)


def test_the_file_does_not_grow(begin: Begin) -> None:
    watch = begin(window=10_000)
    fed(watch, 200, 100)
    watch.close()
    small = watch.files.counts.stat().st_size
    again = begin(window=10_000)
    fed(again, 4000, 500)
    again.close()

    assert again.files.counts.stat().st_size < small + 200


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


def test_it_is_known_how_long_nothing_was_counted(begin: Begin) -> None:
    watch = begin()
    watch._counted -= 1000.0
    assert 1000 <= watch.idle < 1100
    fed(watch, 1, 1)
    watch.close()
    assert watch.idle < 100


def test_two_services_do_not_count_into_one_folder(begin: Begin) -> None:
    begin()
    with pytest.raises(OptionError, match="another service counts there"):
        begin()


def test_a_reference_of_another_study_or_another_one_than_before_is_refused(begin: Begin) -> None:
    begin().close()
    with pytest.raises(DataError, match="is of study 000000000000"):
        begin(reference().model_copy(update={"study": "0" * 64}))
    with pytest.raises(OptionError, match="for another reference"):
        begin(reference(count=400))


def test_a_reference_of_another_run_of_the_study_is_refused(begin: Begin, tmp_path: Path) -> None:
    one, other = (reference().model_copy(update={"model": letter * 64}) for letter in "ab")
    with pytest.raises(DataError, match="another run's model"):
        begin(other, weights=one.model)
    assert not (tmp_path / "watched").exists()
    for number, (known, weights) in enumerate(
        [(one, one.model), (one, None), (reference(), one.model), (reference(), None)]
    ):
        begin(known, weights=weights, folder=tmp_path / str(number)).close()


def test_of_two_references_of_a_study_each_model_gets_its_own(tmp_path: Path) -> None:
    models, files = {}, []
    for name in ("one", "two", "old"):
        found = reference().model_copy(update={"model": None if name == "old" else name})
        files.append(tmp_path / f"{name}.json")
        files[-1].write_bytes(found.document())
        models[tmp_path / f"{name}.onnx"] = Model(name, STUDY, None, 0.5, found.model)
    del models[tmp_path / "old.onnx"]
    wanted = Wanted(list(reversed(files[:2])), tmp_path / "watched")
    watches = begin_all(models, wanted)
    close(watches)
    for name, file in (("one", files[0]), ("two", files[1])):
        known = read(watches[name].files.counts, Kept)
        assert known is not None
        assert known.reference == hashlib.sha256(file.read_bytes()).hexdigest()
    del models[tmp_path / "two.onnx"]
    with pytest.raises(OptionError, match="is the reference of no model here"):
        begin_all(models, Wanted(files[1:2], tmp_path / "watched"))
    assert b'"model"' not in files[2].read_bytes(), "counts of older references go on"


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


def test_answers_are_kept_for_so_long_and_so_many(tmp_path: Path) -> None:
    clock = [1_000_000_000.0]
    path = tmp_path / "scores.sqlite"
    kept = KeptScores(path, Bounds(3, 2.0), now=lambda: clock[0])
    for number in range(5):
        kept.keep([f"id-{number}"], np.array([[0.0, number]]))
    kept.keep(["id-4"], np.array([[0.0, 9.0]]))
    clock[0] += 60
    kept.tidy_when_due()
    found = said_under(path, [f"id-{number}" for number in range(6)])
    clock[0] += 3 * 24 * 3600
    kept.keep(["new"], np.array([[1.0, 2.0]]))
    kept.close()

    assert [None if said is None else said.tolist() for said in found] == [
        *(None, None, [0.0, 2.0], [0.0, 3.0], [0.0, 9.0], None),
    ]
    assert said_under(path, ["id-3", "id-4"]) == [None, None]
    (said,) = said_under(path, ["new"])
    assert said is not None
    assert said.tolist() == [1.0, 2.0]


def there(path: Path, ids: list[str], **how: Any) -> bool:  # noqa: ANN401
    """Whether an answer is kept under each id."""
    return all(said is not None for said in said_under(path, ids, **how))


def test_answers_are_forgotten_by_the_clock_and_old_ones_are_not_looked_at(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedward.clinic.watching.watch.TIDY", 0.02)
    monkeypatch.setattr("fedward.clinic.watching.watch._SAVE", 0.01)
    watch = begin(keep=Bounds(100, 2.0))
    clock, path, scores = [time.time()], watch.files.scores, watch._scores
    assert scores is not None
    scores._now = lambda: clock[0]
    inputs = pictures(1, 5)
    watch.saw(inputs, said_of(inputs), "one")
    until = time.monotonic() + 10
    while not there(path, ["one"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert there(path, ["one"])
    clock[0] += 3 * 24 * 3600

    def later() -> float:
        return clock[0]

    while there(path, ["one"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not there(path, ["one"]), "nothing came, and it is still there"
    watch.close()
    with closing(sqlite3.connect(path)) as file, file:  # as if no service had run since
        hour = int(clock[0] // 3600) - 49
        file.execute(
            "INSERT INTO score (id, hour, said) VALUES (?, ?, ?)",
            (digest_of("old"), hour, np.zeros(2).tobytes()),
        )
    assert there(path, ["old"])
    assert not there(path, ["old"], days=2.0, now=later)
    assert there(path, ["old"], days=3.0, now=later)
    about = read(watch.files.about, About)
    assert about is not None
    assert about.kept_days == 2.0


def test_many_kept_answers_do_not_hold_up_the_counting_or_the_end(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = begin(keep=Bounds(200_000, 30))
    assert watch._scores is not None
    watch._scores.keep([f"old {n}" for n in range(100_000)], np.zeros((100_000, 2)))
    told: list[str] = []
    watch._scores._file.set_trace_callback(told.append)
    inputs = pictures(1, 5)
    began = time.monotonic()
    for number in range(2000):
        watch.saw(inputs, said_of(inputs), f"new {number}")
    watch.close(within=60)
    took = time.monotonic() - began

    assert watch.missed == 0
    assert there(watch.files.scores, ["new 0", "new 1999", "old 99999"])
    assert sum(line.startswith("DELETE") for line in told) == 0
    assert sum(line.startswith("COMMIT") for line in told) < 500, "as many as answers"
    assert took < 30
    with closing(sqlite3.connect(watch.files.scores)) as file:
        plan = str(file.execute("EXPLAIN QUERY PLAN DELETE FROM score WHERE hour < 9").fetchall())
    assert "score_hour" in plan


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


def test_a_reference_survives_its_file(tmp_path: Path) -> None:
    from fedward.clinic.watching.reference import read_reference

    made, path = reference(), tmp_path / "reference.json"
    path.write_bytes(made.document())
    assert read_reference(path) == made
    assert isinstance(made, Reference)
    assert set(made.of(STUDY)) == {
        *(("number", name) for name in ("mean", "deviation", "low", "high")),
        ("score", "ill"),
    }
    path.write_text(path.read_text().replace('"fewest": 10', '"fewest": -1'))
    with pytest.raises(DataError, match="fewest"):
        read_reference(path)
