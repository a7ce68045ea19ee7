"""A server that is killed at any moment comes back, goes on, and comes to the same model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.events import Event, Outcome, RoundFinished, RoundLost
from fedward.server.run_errors import RunPaused
from fedward.study.study import Study
from tests.privacy.conftest import fast_folder
from tests.secure_sites import study_of
from tests.server.cut_off import Killed, Step, Watched, federate, private_study, sites_of

Moment = Callable[[Step, int], bool]


def whole(study: Study, folder: Path) -> tuple[Outcome, Watched]:
    """The run of a server that nobody kills."""
    sites = sites_of(folder / "whole", study)
    with Watched(list(sites.files.values())) as grid:
        return federate(study, grid, None), grid


def killed_and_back(study: Study, folder: Path, moment: Moment) -> tuple[Outcome, dict[str, int]]:
    """The run of two servers, and what hospitals were charged."""
    sites = sites_of(folder / "killed", study)
    with Watched(list(sites.files.values()), moment) as grid, pytest.raises(Killed):
        federate(study, grid, folder / "checkpoint")
    with Watched(list(sites.files.values())) as grid:
        return federate(study, grid, folder / "checkpoint"), sites.charges()


def same(one: Outcome, other: Outcome) -> None:
    """The models bit for bit, and everything that is measured with them."""
    assert one.model.tobytes() == other.model.tobytes()
    assert (one.test, one.validation, one.curve) == (other.test, other.validation, other.curve)
    assert one.threshold == other.threshold


STRATEGIES: list[dict[str, Any]] = [
    {"strategy": "fedavg"},
    {"strategy": "fedavgm", "server_momentum": 0.7, "server_learning_rate": 0.5},
    {"strategy": "fedadam"},
    {"strategy": "fedyogi"},
    {"strategy": "fedadagrad"},
    {"strategy": "scaffold", "weighting": "uniform"},
    {"strategy": "fedper"},
    {"strategy": "ditto", "proximal_lambda": 0.5},
]

MOMENTS: dict[str, Moment] = {
    "before the first advert": lambda s, n: n == 1,
    "before asking": lambda s, n: s[:3] == ("push", "train", 2),
    "after some masked": lambda s, n: s[:3] == ("pulled", "train", 2) and s.node == 2,
    "after all masked": lambda s, n: s[:3] == ("push", "unmask", 2),
    "after some unmasked": lambda s, n: s[:3] == ("pulled", "unmask", 2) and s.node == 3,
    "after all unmasked": lambda s, n: s[:3] == ("pulled", "unmask", 2) and s.node == 4,
    "while judging": lambda s, n: s[:3] == ("pulled", "unmask", 5) and s.node == 1,
    "between validation and test": lambda s, n: s[:3] == ("push", "evaluate", 6),
    "at the very end": lambda s, n: s[:3] == ("pulled", "unmask", 6) and s.node == 4,
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_the_model_is_that_of_a_server_nobody_killed(moment: Moment, tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        outcome, _ = whole(study, folder)
        again, charges = killed_and_back(study, folder, moment)

    same(again, outcome)
    assert charges == dict.fromkeys("abcd", 3)  # a round is charged once, whoever asked for it
    assert [type(record) for record in again.rounds] == [RoundFinished] * 3
    assert again.refusals == []


@pytest.mark.slow
def test_every_single_step_of_a_run_can_be_its_last(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        outcome, grid = whole(study, folder)
        for last in range(1, len(grid.steps) + 1):
            here = folder / str(last)
            again, charges = killed_and_back(study, here, lambda s, n, last=last: n == last)  # type: ignore[misc]
            same(again, outcome)
            assert charges == dict.fromkeys("abcd", 3), last


@pytest.mark.slow
def test_a_server_that_is_killed_again_and_again_arrives(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        outcome, _ = whole(study, folder)
        sites, times = sites_of(folder / "killed", study), 0
        while True:  # adverts and one exchange take 24 steps: each server gets a little further
            try:
                with Watched(list(sites.files.values()), lambda s, n: n == 26) as grid:
                    again = federate(study, grid, folder / "checkpoint")
                break
            except Killed:
                times += 1
                assert times < 40
        same(again, outcome)
        assert times >= 2
        assert sites.charges() == dict.fromkeys("abcd", 3)


@pytest.mark.parametrize("aggregation", STRATEGIES, ids=lambda a: str(a["strategy"]))
@pytest.mark.parametrize("secure", [True, False], ids=["secure", "plain"])
def test_every_optimizer_remembers(
    aggregation: dict[str, Any], secure: bool, tmp_path: Path
) -> None:
    """Killed in the third of four rounds, when there is much to forget."""
    study = private_study(
        training={"rounds": 4},
        aggregation={**aggregation, "secure": secure},
        privacy={"mode": "off"},
        model={"hidden": [3]},  # so that something travels beside the head
    )
    with fast_folder() as folder:
        outcome, _ = whole(study, folder)
        kill: Moment = lambda s, n: s[:3] == ("pulled", "train", 3) and s.node == 2  # noqa: E731
        again, _ = killed_and_back(study, folder, kill)
    same(again, outcome)


def test_a_private_study_in_the_clear_is_charged_once(tmp_path: Path) -> None:
    study = private_study(aggregation={"secure": False})
    with fast_folder() as folder:
        outcome, _ = whole(study, folder)
        kill: Moment = lambda s, n: s[:3] == ("pulled", "train", 2) and s.node == 3  # noqa: E731
        again, charges = killed_and_back(study, folder, kill)
    same(again, outcome)
    assert charges == dict.fromkeys("abcd", 3)


@pytest.mark.parametrize("saved", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("exchange", [0, 1, 3, 5, 6])
def test_killed_around_a_checkpoint(
    exchange: int, saved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def killed(self: Checkpoints, checkpoint: Checkpoint) -> None:
        if saved or checkpoint.exchange != exchange:
            save(self, checkpoint)
        if checkpoint.exchange == exchange:
            raise Killed

    study = private_study()
    with fast_folder() as folder:
        outcome, _ = whole(study, folder)
        sites = sites_of(folder / "killed", study)
        files = list(sites.files.values())
        with monkeypatch.context() as patch, Watched(files) as grid:
            patch.setattr(Checkpoints, "save", killed)
            with pytest.raises(Killed):
                federate(study, grid, folder / "checkpoint")
        with Watched(files) as grid:
            again = federate(study, grid, folder / "checkpoint")
        same(again, outcome)
        assert sites.charges() == dict.fromkeys("abcd", 3)
        if (exchange, saved) == (6, True):
            assert grid.steps == []  # everything was known: nobody is asked again


# --- Others come back than those who were asked ---------------------------------------------------


def after_unmasking(study: Study, folder: Path) -> tuple[list[Path], Any]:
    """A server is killed when a, b and c had said their shares for the sum over all four."""
    sites = sites_of(folder / "sites", study)
    kill: Moment = lambda s, n: s[:3] == ("pulled", "unmask", 2) and s.node == 3  # noqa: E731
    files = list(sites.files.values())
    with Watched(files, kill) as grid, pytest.raises(Killed):
        federate(study, grid, folder / "checkpoint")
    return files, sites


def test_a_round_whose_survivors_are_bound_is_lost_without_one_of_them(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        files, sites = after_unmasking(study, folder)
        events: list[Event] = []
        with Watched(files) as grid:
            grid.gone = {4}
            outcome = federate(study, grid, folder / "checkpoint", events=events)

        assert [type(r) for r in outcome.rounds] == [RoundFinished, RoundLost, RoundFinished]
        assert "4 are needed" in outcome.rounds[1].why  # type: ignore[union-attr]
        assert not [s for s in grid.steps if s[:3] == ("push", "train", 2)]  # nobody works in vain
        assert sites.charges() == {"a": 3, "b": 3, "c": 3, "d": 2}
        assert outcome.test["records"] > 0
        assert outcome.refusals == []


def test_a_survivor_that_is_back_in_time_opens_the_sum(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        expected, _ = whole(study, folder)
        files, sites = after_unmasking(study, folder)
        with Watched(files) as grid:
            grid.gone = {4}

            def back(event: Event) -> None:
                if type(event).__name__ == "RoundDelayed":
                    grid.gone = set()

            outcome = federate(study, grid, folder / "checkpoint", listener=back)
        same(outcome, expected)
        assert sites.charges() == dict.fromkeys("abcd", 3)


def test_a_hospital_that_lost_its_state_does_not_hold_the_others_up(tmp_path: Path) -> None:
    """d has a new key: it can never answer the round again, but it takes part in the next."""
    import shutil

    study = private_study()
    with fast_folder() as folder:
        files, sites = after_unmasking(study, folder)
        shutil.rmtree(sites.state("d") / "runs")
        from fedward.client.app import open_site

        open_site.cache_clear()
        with Watched(files) as grid:
            outcome = federate(study, grid, folder / "checkpoint")
        kinds = [type(record) for record in outcome.rounds]
        assert kinds == [RoundFinished, RoundLost, RoundFinished]
        assert outcome.rounds[2].answered == 4  # type: ignore[union-attr]


def test_whoever_left_before_unmasking_is_only_missing(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        sites = sites_of(folder / "sites", study)
        files = list(sites.files.values())
        kill: Moment = lambda s, n: s[:3] == ("pulled", "train", 2) and s.node == 4  # noqa: E731
        with Watched(files, kill) as grid, pytest.raises(Killed):
            federate(study, grid, folder / "checkpoint")
        with Watched(files) as grid:
            grid.gone = {4}
            outcome = federate(study, grid, folder / "checkpoint")
        assert [type(record) for record in outcome.rounds] == [RoundFinished] * 3
        second, third = outcome.rounds[1:]
        assert isinstance(second, RoundFinished)
        assert isinstance(third, RoundFinished)
        assert (second.answered, second.silent, second.attempts) == (3, 1, 2)
        assert (third.answered, third.silent, third.attempts) == (3, 0, 1)
        assert np.isfinite(outcome.model).all()


def test_too_few_come_back_and_the_run_waits_for_a_person(tmp_path: Path) -> None:
    study = private_study()
    with fast_folder() as folder:
        expected, _ = whole(study, folder)
        files, sites = after_unmasking(study, folder)
        with Watched(files) as grid:
            grid.gone = {3, 4}
            with pytest.raises(RunPaused, match=r"round 2: 2 hospitals are connected"):
                federate(study, grid, folder / "checkpoint")
            grid.gone = set()
            outcome = federate(study, grid, folder / "checkpoint")
        same(outcome, expected)
        assert sites.charges() == dict.fromkeys("abcd", 3)


def test_a_survivor_that_left_while_judging_leaves_the_part_unjudged_once_it_is_expelled(
    tmp_path: Path,
) -> None:
    from fedward.server.members import Members

    study = study_of(participation={"hospitals": 4, "min_hospitals": 3, "deadline_seconds": 0.2})
    with fast_folder() as folder:
        sites = sites_of(folder / "sites", study)
        files = list(sites.files.values())
        kill: Moment = lambda s, n: s[:3] == ("pulled", "unmask", 6) and s.node == 3  # noqa: E731
        with Watched(files, kill) as grid, pytest.raises(Killed):
            federate(study, grid, folder / "checkpoint")
        with Watched(files) as grid:
            grid.gone = {4}
            with pytest.raises(RunPaused, match="judging the final model on test"):
                federate(study, grid, folder / "checkpoint")
            left = Members(2, frozenset("abc"))
            outcome = federate(study, grid, folder / "checkpoint", members=lambda: left)
        assert outcome.test["auc"] is None
        assert outcome.validation is not None
