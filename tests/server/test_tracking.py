"""Trackers beside a run: what they are told, and that none of them can end it or hold it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from fedward.privacy.schedule import epsilon_after
from fedward.server.events import Answered, Event, Outcome, Refused, RoundFinished, RoundLost
from fedward.server.tracked_values import Point, digests_of, points_of, settings_of
from fedward.server.tracking import (
    About,
    Ending,
    Tracker,
    TrackerAway,
    TrackerRefused,
    Tracking,
    Waits,
)
from fedward.study.messages import Refusal
from tests.server.cut_off import private_study

STUDY = private_study()
QUICK = Waits(first=0.01, longest=0.02, end=5.0)
FIGURES = {"auc": 0.75, "records": 40, "loss": float("nan"), "classes": {"a/b": {"f1": 0.5}}}


def finished(number: int) -> RoundFinished:
    return RoundFinished(number, 3, 1.5, 2, 1, "validation", FIGURES)


OUTCOME = Outcome(
    model=np.zeros(3, np.float32),
    test={"auc": 0.8},
    validation={"auc": 0.7},
    threshold=0.4,
    curve=[None, FIGURES, FIGURES, {"auc": 0.9}],
    part="validation",
    rounds=[finished(1), finished(2), RoundLost(3, 3, 1.0, 2, "nobody came")],
)


class Kept:
    """A tracker that keeps what it is told, unless something is in its way."""

    label = "the tracker"

    def __init__(self, trouble: Callable[[str, int], None] = lambda what, calls: None) -> None:
        self.told: list[object] = []
        self.calls = 0
        self._trouble = trouble

    def begin(self, about: About) -> None:
        self._keep("begin", about)

    def points(self, points: Sequence[Point]) -> None:
        self._keep("points", *points)

    def tags(self, tags: Mapping[str, str]) -> None:
        self._keep("tags", dict(tags))

    def end(self, how: Ending) -> None:
        self._keep("end", how)

    def _keep(self, what: str, *told: object) -> None:
        self.calls += 1
        self._trouble(what, self.calls)
        self.told.extend(told)

    @property
    def figures(self) -> list[Point]:
        return [each for each in self.told if isinstance(each, Point)]


def tracked(tracker: Tracker, *events: Event, waits: Waits = QUICK) -> list[str]:
    """Lines that were said of a tracker that was told of these events."""
    said: list[str] = []
    with Tracking(STUDY, [tracker], name="run", seed=7, say=said.append, waits=waits) as tracking:
        for event in events:
            tracking.listen(event)
        tracking.stopped()
    return said


def named(points: Sequence[Point]) -> dict[tuple[str, int], float]:
    return {(each.name, each.step): each.value for each in points}


def test_a_round_s_figures_are_those_of_the_model_before_it() -> None:
    found = named(points_of(finished(2), STUDY, 5.0))
    assert found[("validation/auc", 1)] == 0.75
    assert found[("validation/classes/a_b/f1", 1)] == 0.5
    assert found[("round/answered", 2)] == 2
    assert found[("round/silent", 2)] == 1
    assert found[("epsilon", 2)] == epsilon_after(STUDY, 2)
    assert not any("records" in name or "loss" in name for name, _ in found)  # NaN is no figure


def test_the_end_s_figures_are_those_of_the_outcome() -> None:
    found = named(points_of(OUTCOME, STUDY, 5.0))
    assert found[("validation/auc", 3)] == 0.9
    assert found[("final/test/auc", 3)] == 0.8
    assert found[("final/validation/auc", 3)] == 0.7
    assert found[("final/threshold", 3)] == 0.4
    assert found[("final/epsilon", 3)] == epsilon_after(STUDY, 3)


def test_of_a_hospital_nothing_is_told_by_name() -> None:
    refused = Refused(1, Refusal("Ward Z", "RefusedError", "no", ""))
    assert points_of(refused, STUDY, 0.0) == []
    assert points_of(Answered(1, "Ward Z"), STUDY, 0.0) == []
    assert [p.name for p in points_of(OUTCOME.rounds[2], STUDY, 0.0)] == ["round/lost"]


def test_settings_are_the_study_s_and_short_enough_for_every_tracker() -> None:
    found = settings_of(STUDY, 7)
    assert found["study.digest"] == STUDY.digest()
    assert found["seed"] == "7"
    assert found["training.rounds"] == str(STUDY.training.rounds)
    assert found["model.name"] == STUDY.model.name
    assert found["privacy.mode"] == "local"
    assert not any(name.startswith(("data.features", "simulation")) for name in found)
    assert all(len(value) <= 500 for value in found.values())


def test_a_tracker_is_told_all_in_its_order() -> None:
    tracker = Kept()
    events: list[Event] = [finished(1), finished(2), OUTCOME]
    assert tracked(tracker, *events) == []

    about = tracker.told[0]
    assert isinstance(about, About)
    assert (about.name, about.key, about.study) == ("run", None, STUDY.study.name)
    assert tracker.told[-1] == "stopped"
    wanted = [point[:3] for event in events for point in points_of(event, STUDY, 0.0)]
    assert [point[:3] for point in tracker.figures] == wanted


def test_results_are_told_by_their_digests(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-4
    assert digests_of(tmp_path) == {"model.safetensors": digest}
    tracker = Kept()
    with Tracking(STUDY, [tracker], name="run", seed=0, say=pytest.fail) as tracking:
        tracking.listen(OUTCOME)
        tracking.results(tmp_path)
    assert tracker.told[-2:] == [{"sha256.model.safetensors": digest}, "finished"]


def test_results_that_cannot_be_read_are_a_line_and_end_no_run(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    said: list[str] = []
    tracker = Kept()
    with Tracking(STUDY, [tracker], name="run", seed=0, say=said.append) as tracking:
        tracking.listen(OUTCOME)
        tracking.results(tmp_path)
    assert tracker.told[-1] == "finished"
    (line,) = said
    assert "not told the results' digests" in line


def test_a_run_that_fails_is_told_as_failed() -> None:
    tracker = Kept()

    def fails() -> None:
        with Tracking(STUDY, [tracker], name="run", seed=0, say=pytest.fail) as tracking:
            tracking.listen(finished(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert tracker.told[-1] == "failed"


def test_a_run_of_which_nothing_happened_is_not_tracked() -> None:
    tracker = Kept()
    with Tracking(STUDY, [tracker], name="run", seed=0, say=pytest.fail):
        pass
    assert tracker.told == []


def test_a_tracker_that_is_away_for_a_while_misses_nothing() -> None:
    back = threading.Event()

    def trouble(what: str, calls: int) -> None:
        if calls < 5:
            raise TrackerAway("no route to host")
        back.set()

    tracker, said = Kept(trouble), list[str]()
    with Tracking(STUDY, [tracker], name="r", seed=0, say=said.append, waits=QUICK) as tracking:
        tracking.listen(finished(1))
        assert back.wait(5)
        tracking.listen(finished(2))
        tracking.stopped()
    both = [p[:3] for number in (1, 2) for p in points_of(finished(number), STUDY, 0.0)]
    assert [point[:3] for point in tracker.figures] == both
    assert tracker.told[-1] == "stopped"
    assert len(said) == 2
    assert "does not answer (no route to host); the run goes on" in said[0]
    assert "answers again" in said[1]


def test_a_tracker_that_stays_away_costs_lines_and_no_time() -> None:
    def trouble(what: str, calls: int) -> None:
        raise TrackerAway("no route to host")

    before = time.monotonic()
    said = tracked(Kept(trouble), finished(1), OUTCOME, waits=Waits(60.0, 60.0, 60.0))
    assert time.monotonic() - before < 5  # not a wait of 60 s
    assert [line.partition(" (")[0] for line in said] == [
        "the tracker does not answer",
        "the tracker was not told everything; the rest is lost",
    ]


def test_a_tracker_that_hangs_is_left_behind() -> None:
    hang = threading.Event()

    def trouble(what: str, calls: int) -> None:
        hang.wait(60)

    before = time.monotonic()
    said = tracked(Kept(trouble), finished(1), waits=Waits(end=0.2))
    assert time.monotonic() - before < 5
    assert said == ["the tracker did not take everything within 0.2 s; the rest is lost"]
    hang.set()


@pytest.mark.parametrize("error", [TrackerRefused("401"), ValueError("b\x1b[2J\nug")])
def test_a_tracker_that_refuses_to_begin_is_told_nothing_more(error: Exception) -> None:
    def trouble(what: str, calls: int) -> None:
        raise error

    tracker = Kept(trouble)
    said = tracked(tracker, finished(1), finished(2), OUTCOME)
    assert tracker.calls == 1
    assert len(said) == 1
    assert said[0].isprintable()


def test_a_figure_that_is_refused_is_one_line_and_the_others_come() -> None:
    def trouble(what: str, calls: int) -> None:
        if what == "points":
            raise TrackerRefused("bad name")

    tracker, said = Kept(trouble), list[str]()
    with Tracking(STUDY, [tracker], name="r", seed=0, say=said.append) as tracking:
        for number in (1, 2, 3):
            tracking.listen(finished(number))
            time.sleep(0.05)  # so that they are not one call
        tracking.stopped()
    assert tracker.told[-1] == "stopped"
    assert len(said) == 1


def test_one_tracker_s_trouble_is_not_another_s() -> None:
    def trouble(what: str, calls: int) -> None:
        raise RuntimeError("bug")

    good, said = Kept(), list[str]()
    trackers = [Kept(trouble), good]
    with Tracking(STUDY, trackers, name="r", seed=0, say=said.append) as tracking:
        tracking.listen(finished(1))
        tracking.stopped()
    assert good.told[-1] == "stopped"
    assert len(said) == 1
