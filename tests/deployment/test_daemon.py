"""A hospital's daemon at a real SuperLink: over TLS, with a key of its own, with a real worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fedward.client.happenings import (
    Answered,
    Asked,
    Connected,
    Disconnected,
    Dropped,
    Refused,
    Stopped,
    WorkerRestarted,
)
from fedward.client.hospital import read_hospital
from fedward.client.site import Site
from fedward.study.messages import Contribution, Refusal
from tests.deployment.conftest import (
    Hospital,
    Open,
    answer_of,
    asked,
    endless_study,
    quick_study,
    training,
)
from tests.superlink_ward import ServerSide, Ward, until

pytestmark = pytest.mark.slow


def connected(ward: Ward, open_hospital: Open, **daemon: float) -> tuple[Hospital, int]:
    hospital = open_hospital(ward, **daemon)
    node = ward.register(hospital.key)
    hospital.start().first(Connected)
    return hospital, node


def test_a_message_is_answered_as_the_site_answers_it(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital)
    study = hospital.approve(quick_study())

    records = asked(server, node, training(study))
    got = answer_of(records, study)

    site = Site(read_hospital(hospital.file), hospital.folder)
    expected = site.answer(lambda: training(study))
    assert isinstance(got, Contribution), got
    assert isinstance(expected, Contribution)
    # Real hospitals draw the order of their records anew: the last bit of a sum may differ.
    np.testing.assert_allclose(got.vector, expected.vector, rtol=1e-5, atol=1e-6)
    told = hospital.first(Answered)
    assert (told.asked.kind, told.asked.study) == ("train", study.digest())
    assert (told.asked.run, told.asked.round) == ("run-1", 1)
    assert told.size > got.vector.nbytes
    assert hospital.first(Asked) == told.asked
    assert "GetFab" not in ward.log  # the handler logs every one
    assert "GetRun" not in ward.log


def test_a_worker_that_is_killed_costs_one_answer(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital)
    study, endless = hospital.approve(quick_study()), hospital.approve(endless_study())
    assert isinstance(answer_of(asked(server, node, training(study)), study), Contribution)

    from fedward.study.wire import pack_request

    given = server.give(pack_request(training(endless)), "train", [node])
    until(lambda: len(hospital.all(Asked)) == 2)
    first = hospital.worker()
    os.kill(first, signal.SIGKILL)
    refusal = answer_of(server.take(given)[node], endless)

    assert isinstance(refusal, Refusal)
    assert (refusal.hospital, refusal.error) == ("north", "TrainingError")
    assert "SIGKILL" not in refusal.what  # that is the hospital's own business
    assert "SIGKILL" in hospital.first(WorkerRestarted).reason
    again = answer_of(asked(server, node, training(study, 2)), study)
    assert isinstance(again, Contribution), again
    assert hospital.worker() != first
    assert [told.error for told in hospital.all(Refused)] == ["TrainingError"]


def test_a_message_that_takes_too_long_is_given_up(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital, deadline_seconds=8)
    study, endless = hospital.approve(quick_study()), hospital.approve(endless_study())

    refusal = answer_of(asked(server, node, training(endless)), endless)

    assert isinstance(refusal, Refusal)
    assert "longer than 8 s" in hospital.first(WorkerRestarted).reason
    assert isinstance(answer_of(asked(server, node, training(study)), study), Contribution)


def test_what_is_not_a_message_of_ours_is_refused_and_harms_nobody(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital)
    study = hospital.approve(quick_study())
    junk = [
        (RecordDict(), "train"),
        (RecordDict({"terms": ConfigRecord({"study": "x" * 20_000})}), "train"),
        (RecordDict({"terms": ConfigRecord({})}), "query.unheard_of"),
        (RecordDict({"terms": ConfigRecord({})}), "system"),
    ]
    for records, kind in junk:
        refusal = answer_of(server.ask(records, kind, [node])[node], study)
        assert isinstance(refusal, Refusal), kind
    worker = hospital.worker()

    assert isinstance(answer_of(asked(server, node, training(study)), study), Contribution)
    assert hospital.worker() == worker
    assert hospital.all(WorkerRestarted) == []


def test_a_superlink_that_is_killed_and_started_again_is_found_again(
    tmp_path: Path, open_hospital: Open
) -> None:
    ward = Ward(tmp_path / "ward")
    ward.start()
    try:
        hospital, node = connected(ward, open_hospital, longest_pause_seconds=2)
        study = hospital.approve(quick_study())
        server = ServerSide(ward)
        assert isinstance(answer_of(asked(server, node, training(study)), study), Contribution)
        server.close()
        ward.kill()
        assert hospital.first(Disconnected).error == "ConnectionLost"
        ward.start()
        until(
            lambda: len(hospital.all(Connected)) == 2,
            seconds=30,
            what=lambda: str(hospital.happened),
        )

        second = ServerSide(ward)
        assert isinstance(answer_of(asked(second, node, training(study, 2)), study), Contribution)
        assert len(hospital.all(Disconnected)) == 1  # once for all tries
        assert node in ward.online()
    finally:
        hospital.stop()
        ward.stop()


def test_an_answer_to_a_run_that_is_over_is_dropped(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital, deadline_seconds=3)
    endless = hospital.approve(endless_study())
    other = ServerSide(ward)
    from fedward.study.wire import pack_request

    other.give(pack_request(training(endless)), "train", [node])
    hospital.first(Asked)
    other.close()
    ward.end(other.run)

    assert "ended" in hospital.first(Dropped).reason
    assert hospital.all(Disconnected) == []


def test_a_stopped_daemon_answers_the_present_question(
    ward: Ward, server: ServerSide, open_hospital: Open
) -> None:
    hospital, node = connected(ward, open_hospital)
    endless = hospital.approve(endless_study())
    from fedward.study.wire import pack_request

    given = server.give(pack_request(training(endless)), "train", [node])
    hospital.first(Asked)
    hospital.stop(grace=1.0)

    assert isinstance(answer_of(server.take(given)[node], endless), Refusal)
    assert isinstance(hospital.happened[-1], Stopped)
