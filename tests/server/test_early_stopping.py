"""Early stopping against a rule and a model that are written out here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from fedward.server.checkpoint import Best, Checkpoint, Checkpoints
from fedward.server.early_stopping import StoppingEarly, stopping_of
from fedward.server.events import Event, Outcome, RoundFinished, RoundStarted
from fedward.server.run_folder import write_rounds
from fedward.server.sentences import sentence
from fedward.study.early_stopping import EarlyStopping
from fedward.study.errors import StudyError
from fedward.study.study import Study
from tests.privacy.conftest import fast_folder
from tests.server.conftest import (
    Ward,
    averaged,
    federate,
    network,
    opened,
    put,
    study_of,
    study_values,
    ward,
)
from tests.server.cut_off import Killed, Step, Watched, private_study, sites_of
from tests.server.cut_off import federate as federate_once

ROUNDS = 12
SHARES = [10, 35]
WARDS = [ward(1, train=10, moved=-1.2), ward(2, train=35, moved=-1.2)]


def values(**early: Any) -> dict[str, Any]:  # noqa: ANN401
    return study_values(
        training={"rounds": ROUNDS, "learning_rate": 0.3, "early_stopping": early or None}
    )


def stopping(**early: Any) -> Study:  # noqa: ANN401
    return study_of(training=values(**early)["training"])


def loss_of(model: NDArray[np.float64], wards: Sequence[Ward], part: str) -> float:
    net = network(0)
    put(net, model)
    pieces = [each.part(part) for each in wards]
    inputs, labels = (torch.cat(list(piece)) for piece in zip(*pieces, strict=True))
    with torch.no_grad():
        return float(functional.cross_entropy(net(inputs), labels))


@pytest.fixture(scope="module")
def models() -> list[NDArray[np.float64]]:
    """The federated model after 0, 1, ... rounds, by hand."""
    return [averaged(WARDS, SHARES, rounds=rounds) for rounds in range(ROUNDS + 1)]


@pytest.fixture(scope="module")
def losses(models: list[NDArray[np.float64]]) -> list[float]:
    """Their losses on everybody's validation records."""
    return [loss_of(model, WARDS, "validation") for model in models]


def by_hand(losses: list[float], patience: int, least: float = 0.0) -> tuple[int, int]:
    """The best round and the last, of losses after 0, 1, ... rounds."""
    best, waited = 0, 0
    for rounds in range(1, ROUNDS):
        if best == 0 or losses[rounds] < losses[best] - least:
            best, waited = rounds, 0
        else:
            waited += 1
        if waited == patience:
            return best, rounds + 1  # known when the next round's answers are there
    return (ROUNDS if losses[ROUNDS] < losses[best] - least else best), ROUNDS


@pytest.mark.parametrize(("patience", "least"), [(1, 0.0), (2, 0.0), (2, 0.03), (20, 0.0)])
def test_the_best_round_s_model_is_judged_and_delivered(
    patience: int,
    least: float,
    models: list[NDArray[np.float64]],
    losses: list[float],
    tmp_path: Path,
) -> None:
    early = {"metric": "loss", "patience": patience, "min_delta": least}
    best, last = by_hand(losses, patience, least)
    assert 1 < best < ROUNDS  # the records are such that training longer is worse

    events: list[Event] = []
    hospitals = opened(tmp_path, WARDS, values(**early))
    outcome = federate(stopping(**early), hospitals, events=events)

    np.testing.assert_allclose(outcome.model, models[best], atol=1e-6)
    assert outcome.validation is not None
    assert outcome.validation["loss"] == pytest.approx(losses[best], abs=1e-5)
    assert outcome.test["loss"] == pytest.approx(loss_of(models[best], WARDS, "test"), abs=1e-5)
    assert sum(isinstance(event, RoundStarted) for event in events) == last == len(outcome.rounds)
    assert outcome.early_stopping == {
        **{"metric": "loss", "value": pytest.approx(losses[best], abs=1e-5)},
        **{"round": best, "trained": last},
    }
    curve = [None if point is None else point["loss"] for point in outcome.curve]
    expected: list[Any] = [pytest.approx(loss, abs=1e-5) for loss in losses[: last + 1]]
    if last < ROUNDS:
        expected[-1] = None  # nobody measured the last model
    assert curve == expected
    write_rounds(outcome, tmp_path / "rounds.csv")
    assert len((tmp_path / "rounds.csv").read_text().splitlines()) == last + 2
    assert f"(of round {best}, {last} trained, loss" in (sentence(outcome) or "")


def test_the_last_model_is_kept_where_the_study_says_so(
    models: list[NDArray[np.float64]], losses: list[float], tmp_path: Path
) -> None:
    early = {"metric": "loss", "patience": 1, "keep": "last"}
    _, last = by_hand(losses, 1)

    outcome = federate(stopping(**early), opened(tmp_path, WARDS, values(**early)))

    assert last < ROUNDS
    np.testing.assert_allclose(outcome.model, models[last], atol=1e-6)
    assert outcome.validation is not None
    assert outcome.validation["loss"] == pytest.approx(losses[last], abs=1e-5)
    assert outcome.curve[-1] == outcome.validation


def test_a_model_that_gets_better_to_the_end_is_the_last(tmp_path: Path) -> None:
    """It is measured after all rounds, and must not lose to the one before it."""
    wards = [ward(1, train=30), ward(2, train=35)]
    change = {"rounds": 4, "learning_rate": 0.02, "local_epochs": 1}
    early = {"early_stopping": {"metric": "loss", "patience": 3}}
    study, with_them = (study_of(training={**change, **more}) for more in (dict[str, Any](), early))
    plain = federate(study, opened(tmp_path / "a", wards, study_values(training=change)))

    stopped = federate(
        with_them, opened(tmp_path / "b", wards, study_values(training={**change, **early}))
    )

    assert stopped.model.tobytes() == plain.model.tobytes()
    assert (stopped.test, stopped.validation) == (plain.test, plain.validation)
    assert stopped.curve == plain.curve
    assert stopped.early_stopping is not None
    assert stopped.early_stopping["round"] == 4
    assert plain.early_stopping is None


# --- The rule by itself ---------------------------------------------------------------------------

NOTHING = np.zeros(2)


def rule(**terms: Any) -> StoppingEarly:  # noqa: ANN401
    """Sums are `[records, value]`."""
    early = EarlyStopping(**{"metric": "auc", "patience": 2, **terms})
    found = stopping_of(early, lambda sums: {early.metric: sums[1]} if sums[0] else None)
    assert isinstance(found, StoppingEarly)
    return found


def watched(stop: StoppingEarly, figures: Sequence[float | None]) -> Best | None:
    """What is remembered after models of 0, 1, ... rounds had these values."""
    best: Best | None = None
    for rounds, value in enumerate(figures):
        sums = NOTHING if value is None else np.array([1.0, value])
        best = stop.watched(best, rounds, np.full(1, rounds, np.float32), sums)
    return best


@pytest.mark.parametrize(
    ("figures", "rounds", "waited"),
    [
        ([0.9], None, 0),  # the first model, which nobody trained
        ([0.9, 0.5], 1, 0),
        ([0.9, 0.5, 0.6, 0.6, 0.55], 2, 2),
        ([0.9, 0.5, None, None, 0.6], 4, 0),  # nothing known counts neither way
        ([0.9, 0.5, 0.4, float("nan"), 0.4], 1, 2),
    ],
)
def test_what_is_remembered(figures: list[float | None], rounds: int | None, waited: int) -> None:
    best = watched(rule(), figures)

    if rounds is None:
        assert best is None
    else:
        assert best is not None
        assert (best.rounds, best.waited, best.model.tolist()) == (rounds, waited, [rounds])


def test_a_lost_round_counts_neither_way() -> None:
    best = watched(rule(), [0.1, 0.5, 0.4])
    assert rule().watched(best, 3, np.zeros(1, np.float32), None) == best


@pytest.mark.parametrize(("metric", "up"), [("auc", True), ("loss", False), ("brier", False)])
def test_each_metric_knows_which_way_is_better(metric: str, up: bool) -> None:
    terms = rule(metric=metric, min_delta=0.1)

    for values, better in (([0.5, 0.7], up), ([0.5, 0.3], not up), ([0.5, 0.55], False)):
        best = watched(terms, [0.0, *values])
        assert best is not None
        assert (best.rounds == 2) == better


# --- Over a restart -------------------------------------------------------------------------------

EARLY = {"rounds": 9, "early_stopping": {"metric": "auc", "patience": 2}}
MOMENTS: dict[str, Callable[[Step, int], bool]] = {
    "before the best is known": lambda s, n: s[:3] == ("push", "train", 2),
    "while waiting": lambda s, n: s[:3] == ("pulled", "train", 3) and s.node == 2,
    "while judging": lambda s, n: s[:2] == ("push", "evaluate"),
    "at the very end": lambda s, n: s[:3] == ("pulled", "unmask", 12) and s.node == 4,
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_a_killed_server_stops_in_the_same_round_with_the_same_model(
    moment: Callable[[Step, int], bool],
) -> None:
    study = private_study(training=EARLY)
    with fast_folder() as folder:
        whole, killed = (sites_of(folder / name, study) for name in ("whole", "killed"))
        with Watched(list(whole.files.values())) as grid:
            outcome = federate_once(study, grid, None)
        with Watched(list(killed.files.values()), moment) as grid, pytest.raises(Killed):
            federate_once(study, grid, folder / "checkpoint")
        with Watched(list(killed.files.values())) as grid:
            again = federate_once(study, grid, folder / "checkpoint")
        charges = killed.charges()

    assert outcome.early_stopping is not None
    trained = outcome.early_stopping["trained"]
    assert outcome.early_stopping["round"] < trained < 9
    assert again.early_stopping == outcome.early_stopping
    assert again.model.tobytes() == outcome.model.tobytes()
    assert (again.test, again.validation) == (outcome.test, outcome.validation)
    assert charges == dict.fromkeys("abcd", trained)  # rounds that were not trained cost nothing
    assert [type(record) for record in again.rounds] == [RoundFinished] * trained


def test_the_best_model_is_in_the_checkpoint(tmp_path: Path) -> None:
    best = Best(3, 0.75, 1, np.arange(4, dtype=np.float32), np.arange(5.0))
    model = np.ones(4, np.float32)
    Checkpoints(tmp_path).save(Checkpoint("0" * 64, "run", 1, 4, model, best=best))

    found = Checkpoints(tmp_path).latest()

    assert found is not None
    assert found.best is not None
    assert found.best[:3] == best[:3]
    assert found.best.model.tolist() == best.model.tolist()
    assert found.best.sums.tolist() == best.sums.tolist()


# --- Which studies can ----------------------------------------------------------------------------


def test_the_test_part_ends_no_run() -> None:
    parts = {"by": "hash", "train": 0.8, "validation": 0.0, "test": 0.2}
    with pytest.raises(StudyError, match=r"early_stopping needs data\.parts\.validation > 0"):
        study_of(data={"parts": parts}, training={"early_stopping": EARLY["early_stopping"]})


def test_a_metric_that_the_task_does_not_have_is_refused_with_those_it_has() -> None:
    with pytest.raises(StudyError, match=r"metric of loss, accuracy, auc.*not dice"):
        stopping(metric="dice", patience=1)


def test_a_noisy_evaluation_has_no_brier_score_to_wait_for() -> None:
    privacy = {
        **{"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5},
        "evaluation_noise_multiplier": 2.0,
    }
    with pytest.raises(StudyError, match=r"metric of loss, accuracy, auc, f1 .*not brier"):
        study_of(privacy=privacy, training={"early_stopping": {"metric": "brier", "patience": 1}})


def test_early_stopping_is_in_the_digest_only_where_it_is_asked_for() -> None:
    plain = study_of()
    assert "early_stopping" not in plain.canonical().decode()
    assert (
        stopping(metric="auc", patience=3).digest() != stopping(metric="auc", patience=4).digest()
    )


def test_an_outcome_without_early_stopping_says_nothing_of_it() -> None:
    outcome = Outcome(np.zeros(1, np.float32), {"loss": 1.0}, None, 0.5, None)
    assert sentence(outcome) == "final model, test part:  loss 1.000"
