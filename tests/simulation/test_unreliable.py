"""Messages that are lost on purpose: a study recovers, and says what it went through."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.server.events import Event, RoundFinished, RoundLost
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import FederationError, OptionError
from fedward.study.study import Study
from tests.simulation.conftest import study_of

PRIVATE = {
    "mode": "local",
    "epsilon": 20.0,
    "delta": 1e-3,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}
Round = RoundFinished | RoundLost


def failing(*failures: dict[str, Any], **tables: dict[str, Any]) -> Study:
    """Four hospitals, any three of which are enough, and what is lost."""
    return study_of(
        training={"rounds": 3},
        participation={"hospitals": 4, "min_hospitals": 3},
        simulation={"failures": list(failures)},
        privacy=tables.pop("privacy", {"mode": "off"}),
        **tables,
    )


def lost(hospital: str, exchange: str, **when: object) -> dict[str, Any]:
    return {"hospital": hospital, "exchange": exchange, **when}


def run(study: Study, out: Path, data: Path, **options: Any) -> tuple[Result, list[Round]]:  # noqa: ANN401
    rounds: list[Round] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished | RoundLost):
            rounds.append(event)

    chosen = {"workers": 1, "baselines": False, **options}
    result = simulate(study, Options(out=out, data=data, **chosen), listener=listen, say=print)
    return result, rounds


def charges(out: Path) -> dict[str, list[int]]:
    """The rounds that each hospital's ledger was charged for."""
    found = {}
    for ledger in sorted(out.glob("hospitals/*/state/ledger.sqlite")):
        with sqlite3.connect(ledger) as db:
            rows = db.execute("SELECT round FROM charge ORDER BY id").fetchall()
        db.close()
        found[ledger.parent.parent.name[-1]] = [row[0] for row in rows]
    return found


def test_who_does_not_answer_is_left_out_of_that_round_only(tmp_path: Path, table: Path) -> None:
    study = failing(lost("B", "train", round=2))

    result, rounds = run(study, tmp_path / "run", table)

    answered = [r.answered for r in rounds if isinstance(r, RoundFinished)]
    assert answered == [4, 3, 4]
    assert [r.attempts for r in rounds] == [1, 1, 1]
    assert result.sums.repeated == result.sums.lost == 0
    assert result.failures == ["round 2: 1 hospitals said nothing in time"]


@pytest.mark.parametrize("worked", [False, True])
def test_a_sum_that_misses_too_many_is_tried_again_without_training_again(
    worked: bool, tmp_path: Path, table: Path
) -> None:
    """Two are away in the first attempt; the ledgers are charged once a round all the same."""
    away = [lost(name, "train", round=2, attempt=1, worked=worked) for name in "AB"]

    result, rounds = run(failing(*away, privacy=PRIVATE), tmp_path / "run", table)

    assert [r.attempts for r in rounds] == [1, 2, 1]
    assert [r.answered for r in rounds if isinstance(r, RoundFinished)] == [4, 4, 4]
    assert result.sums.repeated == 1
    assert charges(tmp_path / "run") == {name: [1, 2, 3] for name in "ABCD"}


def test_a_repeated_round_gives_the_model_that_an_undisturbed_run_gives(
    tmp_path: Path, table: Path
) -> None:
    away = [lost(name, "train", round=2, attempt=1, worked=True) for name in "AB"]
    run(failing(*away), tmp_path / "disturbed", table)
    run(failing(), tmp_path / "calm", table)

    disturbed, calm = (
        load_file(tmp_path / name / "model.safetensors") for name in ("disturbed", "calm")
    )
    assert all(np.array_equal(disturbed[key], calm[key]) for key in calm)


def test_a_lost_answer_to_unmask_is_asked_for_again(tmp_path: Path, table: Path) -> None:
    study = failing(
        lost("B", "train", round=1),
        lost("C", "unmask", round=1, worked=True, again=0),
        lost("D", "unmask", round=1, again=1),
    )

    _, rounds = run(study, tmp_path / "run", table)

    assert [r.attempts for r in rounds] == [1, 1, 1]
    assert [r.answered for r in rounds if isinstance(r, RoundFinished)] == [3, 4, 4]


def test_a_survivor_who_stays_silent_is_not_missed_where_nobody_had_dropped(
    tmp_path: Path, table: Path
) -> None:
    study = failing(lost("C", "unmask", round=2))

    _, rounds = run(study, tmp_path / "run", table)

    assert [r.answered for r in rounds if isinstance(r, RoundFinished)] == [4, 4, 4]
    assert [r.attempts for r in rounds] == [1, 1, 1]


def test_a_survivor_who_falls_silent_after_another_costs_an_attempt(
    tmp_path: Path, table: Path
) -> None:
    """B drops, C answers, is gone when the sum is opened, and is back for the next attempt."""
    study = failing(lost("B", "train", round=2, attempt=1), lost("C", "unmask", round=2, attempt=1))

    _, rounds = run(study, tmp_path / "run", table)

    assert [r.attempts for r in rounds] == [1, 2, 1]
    assert [r.answered for r in rounds if isinstance(r, RoundFinished)] == [4, 3, 4]


def test_a_round_that_cannot_be_had_is_given_up_and_the_next_trains_anew(
    tmp_path: Path, table: Path
) -> None:
    away = [lost(name, "train", round=2) for name in "AB"]

    result, rounds = run(failing(*away), tmp_path / "run", table)

    assert [type(r) for r in rounds] == [RoundFinished, RoundLost, RoundFinished]
    assert result.sums.lost == 1
    (line,) = result.failures
    assert line.startswith("round 2/3  given up after 5 attempts: 2 hospitals answered in time")


def test_three_lost_rounds_end_a_run(tmp_path: Path, table: Path) -> None:
    away = [lost(name, "train") for name in "AB"]

    with pytest.raises(FederationError, match="round 3: 2 hospitals answered in time, 3 are"):
        run(failing(*away), tmp_path / "run", table)


def test_what_is_lost_at_random_is_lost_again_with_the_same_seed(
    tmp_path: Path, table: Path
) -> None:
    said = []
    for name, workers in (("one", 1), ("again", 1), ("two", 2)):
        study = failing()
        result, rounds = run(study, tmp_path / name, table, drop=0.3, seed=7, workers=workers)
        said.append((result.metrics, [r.attempts for r in rounds], result.failures))

    assert said[0] == said[1] == said[2]
    _, attempts, failures = said[0]
    assert failures or max(attempts) > 1


def test_nothing_is_lost_on_ray(tmp_path: Path, table: Path) -> None:
    with pytest.raises(OptionError, match="--drop, or --engine ray"):
        run(failing(), tmp_path / "run", table, drop=0.1, engine="ray")
