"""Hospitals that leave, come back and say no, and a run that waits for them or for a person."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from fedward.server.events import Event, RoundDelayed, RoundFinished, RoundLost, RoundStarted
from fedward.server.lost_rounds import LostRounds
from fedward.server.members import Members
from fedward.server.run_errors import RunPaused, RunStopped
from tests.server.conftest import disapprove
from tests.server.cut_off import Watched, federate, private_study, sites_of

PLAIN = {"aggregation": {"secure": False}, "privacy": {"mode": "off"}}
KINDS = pytest.mark.parametrize("tables", [{}, PLAIN], ids=["secure", "plain"])


@KINDS
def test_a_hospital_that_leaves_is_not_asked_and_one_that_comes_back_is(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(training={"rounds": 4}, **tables)
    files = list(sites_of(tmp_path, study).files.values())
    with Watched(files) as grid:

        def listen(event: Event) -> None:
            if isinstance(event, RoundFinished):
                grid.gone = {1: {2}, 2: {3}}.get(event.round, set())

        outcome = federate(study, grid, tmp_path / "c", listener=listen)
    asked = {n: {s.node for s in grid.steps if s[:3] == ("push", "train", n)} for n in range(1, 5)}
    assert asked == {1: {1, 2, 3, 4}, 2: {1, 3, 4}, 3: {1, 2, 4}, 4: {1, 2, 3, 4}}
    assert [r.answered for r in outcome.rounds if isinstance(r, RoundFinished)] == [4, 3, 3, 4]
    assert outcome.test["records"] > 0


@KINDS
def test_with_too_few_connected_nobody_is_asked_and_the_round_waits(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(**tables)
    files = list(sites_of(tmp_path, study).files.values())
    events: list[Event] = []
    with Watched(files) as grid:

        def listen(event: Event) -> None:
            events.append(event)
            if isinstance(event, RoundFinished) and event.round == 1:
                grid.gone = {1, 2}
            if isinstance(event, RoundDelayed) and event.repeat == 2:
                grid.gone = set()

        outcome = federate(study, grid, tmp_path / "c", listener=listen)
    delayed = [event for event in events if isinstance(event, RoundDelayed)]
    assert [(event.round, event.repeat) for event in delayed] == [(2, 1), (2, 2)]
    assert "2 hospitals are connected and can take part, 3 are needed" in delayed[0].why
    assert [type(record) for record in outcome.rounds] == [RoundFinished] * 3
    assert len([s for s in grid.steps if s[:3] == ("push", "train", 2)]) == 4


@KINDS
def test_a_run_that_waited_in_vain_pauses_and_is_taken_up(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(**tables)
    sites = sites_of(tmp_path, study)
    files = list(sites.files.values())
    events: list[Event] = []
    with Watched(files) as grid:

        def listen(event: Event) -> None:
            events.append(event)
            if isinstance(event, RoundStarted) and event.round == 2:
                grid.mute = {1, 2}  # connected, and silent

        policy = LostRounds(repeats=2, wait_seconds=0.05, pauses=True)
        started = time.monotonic()
        with pytest.raises(RunPaused, match=r"round 2: 2 hospitals answered in time, 3 are needed"):
            federate(study, grid, tmp_path / "c", listener=listen, policy=policy)
        assert time.monotonic() - started >= 2 * 0.05
        assert sum(isinstance(event, RoundDelayed) for event in events) == 2
        grid.mute = set()
        outcome = federate(study, grid, tmp_path / "c", policy=policy)
    assert [type(record) for record in outcome.rounds] == [RoundFinished] * 3
    assert sites.charges() == dict.fromkeys("abcd", 0 if tables else 3)


def test_a_survivor_that_stays_silent_costs_its_round_and_no_other(tmp_path: Path) -> None:
    """It is connected, and bound to the others by their shares; they go on without it."""
    study = private_study()
    files = list(sites_of(tmp_path, study).files.values())
    with Watched(files) as grid:

        def silenced(event: Event) -> None:
            if isinstance(event, RoundStarted) and event.round == 2:
                grid.mute_at = {("unmask", 2): {3, 4}}
            if isinstance(event, RoundDelayed):
                grid.mute = {4}

        outcome = federate(study, grid, tmp_path / "c", listener=silenced)
    assert [type(r) for r in outcome.rounds] == [RoundFinished, RoundLost, RoundFinished]


@KINDS
def test_a_no_pauses_at_once_and_names_the_hospital(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(**tables)
    sites = sites_of(tmp_path, study)
    files = list(sites.files.values())
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundStarted) and event.round == 2:
            disapprove(files[0])
            disapprove(files[1])

    with Watched(files) as grid, pytest.raises(RunPaused, match=r"hospital a: round 2: .*approved"):
        federate(study, grid, tmp_path / "c", listener=listen)
    assert not [event for event in events if isinstance(event, RoundDelayed)]
    sites.approve(study)
    with Watched(files) as grid:
        outcome = federate(study, grid, tmp_path / "c")
    assert [type(record) for record in outcome.rounds] == [RoundFinished] * 3


def test_hospitals_that_never_come_pause_a_run(tmp_path: Path) -> None:
    study = private_study()
    with Watched(list(sites_of(tmp_path, study).files.values())) as grid:
        grid.gone = {1, 2, 3, 4}
        with pytest.raises(RunPaused, match="0 of 4 hospitals are ready"):
            federate(study, grid, tmp_path / "c")
        grid.gone = set()
        assert len(federate(study, grid, tmp_path / "c").rounds) == 3


@KINDS
def test_an_expelled_hospital_takes_no_part_from_the_next_round_on(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(**tables)
    files = list(sites_of(tmp_path, study).files.values())
    members = [Members(1, frozenset("abcd"))]

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 1:
            members.append(Members(2, frozenset("abd")))

    with Watched(files) as grid:
        outcome = federate(
            study, grid, tmp_path / "c", listener=listen, members=lambda: members[-1]
        )
    assert [r.answered for r in outcome.rounds if isinstance(r, RoundFinished)] == [4, 3, 3]
    if not tables:
        assert not [s for s in grid.steps if s[:2] == ("push", "train") and s[2:5:2] == (2, 3)]


def test_a_hospital_that_approves_later_joins(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path, study)
    disapprove(sites.files["d"])

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == 2:
            sites.approve(study)

    with Watched(list(sites.files.values())) as grid:
        outcome = federate(study, grid, tmp_path / "c", listener=listen)
    assert [r.answered for r in outcome.rounds if isinstance(r, RoundFinished)] == [3, 3, 4]
    assert [refused.refusal.hospital for refused in outcome.refusals] == ["d"]  # said once


@KINDS
def test_a_run_is_stopped_in_the_middle_of_an_exchange_and_goes_on_later(
    tables: dict[str, dict[str, object]], tmp_path: Path
) -> None:
    study = private_study(**tables)
    sites = sites_of(tmp_path, study)
    files = list(sites.files.values())
    with Watched(files) as grid:

        def heed() -> None:
            if [s for s in grid.steps if s[:3] == ("pulled", "train", 2)]:
                raise RunStopped("stopped")

        with pytest.raises(RunStopped):
            federate(study, grid, tmp_path / "c", heed=heed)
    with Watched(files) as grid:
        stopped = federate(study, grid, tmp_path / "c")
    other = sites_of(tmp_path / "other", study)
    with Watched(list(other.files.values())) as grid:
        whole = federate(study, grid, None)
    assert stopped.model.tobytes() == whole.model.tobytes()
    assert not [record for record in stopped.rounds if isinstance(record, RoundLost)]
