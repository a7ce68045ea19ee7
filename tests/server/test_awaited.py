"""While too few hospitals are there to begin, a run says how many, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedward.server.events import Event, HospitalsAwaited
from fedward.study.errors import FedwardError
from tests.server.cut_off import Watched, federate, private_study, sites_of


def test_who_is_awaited_is_told_once(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    events: list[Event] = []
    with Watched(list(sites.files.values())) as grid:
        grid.gone = {next(iter(grid.get_node_ids()))}
        with pytest.raises(FedwardError, match="3 of 4 hospitals are ready"):
            federate(study, grid, None, events=events)
    assert [e for e in events if isinstance(e, HospitalsAwaited)] == [HospitalsAwaited(3, 4, "")]


def test_nobody_is_awaited_where_all_are_there(tmp_path: Path) -> None:
    study = private_study()
    sites = sites_of(tmp_path / "s", study)
    events: list[Event] = []
    with Watched(list(sites.files.values())) as grid:
        federate(study, grid, None, events=events)
    assert not any(isinstance(event, HospitalsAwaited) for event in events)


def test_the_words_say_what_the_others_do_not_do() -> None:
    assert HospitalsAwaited(1, 3, "").words == "for hospitals, 1 of 3 are ready"
    told = HospitalsAwaited(1, 3, "not approved yet at B").words
    assert told == "for hospitals, 1 of 3 are ready (not approved yet at B)"
