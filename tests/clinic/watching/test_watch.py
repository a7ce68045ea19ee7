"""What is counted, what is shown of it, and what is left after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fedward.clinic.watching.begin import Wanted, close
from fedward.clinic.watching.begin import begin as begin_all
from fedward.clinic.watching.counts import Kept
from fedward.clinic.watching.folder import read
from fedward.clinic.watching.gauges import WatchGauges
from fedward.clinic.watching.kept_scores import Bounds
from fedward.clinic.watching.reference import Reference
from fedward.clinic.watching.told import watching
from fedward.clinic.watching.watch import Model
from fedward.study.errors import DataError, OptionError
from tests.clinic.watching.conftest import STUDY, Begin, alarms, fed, pictures, reference, said_of


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
