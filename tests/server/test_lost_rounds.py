"""Who does not answer: silence loses a round and the run goes on, a refusal ends it at once."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedward.client.app import app as hospital_app
from fedward.models.tasks.any_task import Sums
from fedward.server.checkpoint import Best
from fedward.server.early_stopping import StoppingEarly
from fedward.server.events import (
    Answered,
    Event,
    Outcome,
    Refused,
    RoundFinished,
    RoundLost,
    RoundStarted,
)
from fedward.server.federation import Federation
from fedward.server.run_folder import write_rounds
from fedward.simulation.consortium import found_consortium
from fedward.simulation.grid import InProcessGrid
from fedward.study.errors import FederationError
from fedward.study.messages import Vector
from fedward.study.study import Study, parse_study
from tests.server.conftest import (
    SEED,
    PostBox,
    averaged,
    contribution,
    disapprove,
    federate,
    finished_rounds,
    opened,
    study_of,
    study_values,
    ward,
)

A, B = 1, 2
"""The nodes of two hospitals."""

Lost = Callable[[str, int, int], bool]


class Losing(InProcessGrid):
    """Hospitals that cannot be reached by some messages: by exchange, round and node."""

    def __init__(self, hospitals: Sequence[Path], lost: Lost) -> None:
        super().__init__(hospitals)
        self._lost = lost

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        def reaches(message: Message) -> bool:
            about = message.metadata
            return not self._lost(about.message_type, int(about.group_id), about.dst_node_id)

        return super().push_messages([message for message in messages if reaches(message)])


def silent_in(rounds: Iterable[int], *nodes: int) -> Lost:
    """These nodes do not hear of these rounds of training."""
    return lambda kind, number, node: kind == "train" and number in rounds and node in nodes


def lossy(
    study: Study, hospitals: Sequence[Path], lost: Lost, events: list[Event] | None = None
) -> Outcome:
    listener = (lambda _: None) if events is None else events.append
    with Losing(hospitals, lost) as grid:
        return Federation(study, grid, run="run", seed=SEED, listener=listener).train_and_judge()


def kinds(outcome: Outcome) -> list[type]:
    return [type(record) for record in outcome.rounds]


# --- Silence --------------------------------------------------------------------------------------


def test_a_round_without_enough_answers_is_lost_and_the_run_goes_on(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 4})
    wards = [ward(1, train=10), ward(2, train=35)]
    files = opened(tmp_path, wards, values)
    events: list[Event] = []
    outcome = lossy(parse_study(values), files, silent_in([2], B), events)

    assert kinds(outcome) == [RoundFinished, RoundLost, RoundFinished, RoundFinished]
    lost = outcome.rounds[1]
    assert isinstance(lost, RoundLost)
    assert (lost.round, lost.rounds, lost.attempts) == (2, 4, 1)
    assert lost.why == "1 hospitals answered in time, 2 are needed"
    assert 0 <= lost.seconds <= outcome.seconds
    assert outcome.refusals == []
    assert outcome.test["records"] == 24
    heard = [event for event in events if getattr(event, "round", 2) == 2]
    assert [type(event) for event in heard] == [RoundStarted, Answered, RoundLost, Outcome]
    assert heard[2] is lost


def test_a_lost_round_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """What the one that answered had learnt is dropped, and the next round trains anew."""
    values = study_values(training={"rounds": 4})
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = lossy(parse_study(values), opened(tmp_path, wards, values), silent_in([2], B))

    np.testing.assert_allclose(outcome.model, averaged(wards, [10, 35], rounds=3), atol=1e-6)
    assert np.abs(outcome.model - averaged(wards, [10, 35], rounds=4)).max() > 1e-3


def test_the_curve_has_a_gap_where_a_round_was_lost(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 4})
    wards = [ward(1, train=10), ward(2, train=35)]
    whole, gap = (
        lossy(parse_study(values), opened(tmp_path / name, wards, values), silent_in(rounds, B))
        for name, rounds in (("whole", []), ("gap", [2]))
    )

    # The third round began with the model after the first, the fourth with that after the second.
    assert gap.curve == [whole.curve[0], None, *whole.curve[1:4]]


@pytest.mark.parametrize(
    ("lost", "measured"), [([2], [0, 1, 3]), ([1], [0, 2, 3]), ([2, 3], [0, 1]), ([], [0, 1, 2, 3])]
)
def test_early_stopping_knows_which_round_s_model_was_measured(
    lost: list[int], measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost round leaves the model of the last one that was finished."""
    found, real = [], StoppingEarly.watched

    def watched(
        self: StoppingEarly, best: Best | None, rounds: int, model: Vector, sums: Sums | None
    ) -> Best | None:
        if sums is not None:
            found.append(rounds)
        return real(self, best, rounds, model, sums)

    monkeypatch.setattr(StoppingEarly, "watched", watched)
    early = {"metric": "loss", "patience": 20}
    values = study_values(training={"rounds": 4, "early_stopping": early})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)
    lossy(parse_study(values), files, silent_in(lost, A, B))

    assert found == measured


def test_the_last_round_s_number_is_that_of_its_model(tmp_path: Path) -> None:
    early = {"metric": "loss", "patience": 20, "keep": "last"}
    values = study_values(training={"rounds": 3, "early_stopping": early})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)

    outcome = lossy(parse_study(values), files, silent_in([3], A, B))

    assert outcome.early_stopping is not None
    assert (outcome.early_stopping["round"], outcome.early_stopping["trained"]) == (2, 3)


def test_a_lost_round_is_a_row_without_hospitals(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 3})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)
    outcome = lossy(parse_study(values), files, silent_in([2], A, B))
    write_rounds(outcome, tmp_path / "rounds.csv")

    with (tmp_path / "rounds.csv").open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["round"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["hospitals"] for row in rows] == ["", "2", "0", "2"]
    assert [bool(row["loss"]) for row in rows] == [True, False, True, True]


@pytest.mark.parametrize(
    ("rounds", "lost"),
    [(4, [1, 2]), (7, [1, 2, 4, 5]), (9, [2, 3, 5, 6, 8])],
    ids=["two at first", "two and two", "never three in a row"],
)
def test_fewer_than_three_lost_rounds_in_a_row_are_survived(
    rounds: int, lost: list[int], tmp_path: Path
) -> None:
    values = study_values(training={"rounds": rounds})
    wards = [ward(1, train=10), ward(2, train=35)]
    outcome = lossy(parse_study(values), opened(tmp_path, wards, values), silent_in(lost, A))

    assert [r.round for r in outcome.rounds if isinstance(r, RoundLost)] == lost
    finished = rounds - len(lost)
    by_hand = averaged(wards, [10, 35], rounds=finished)
    np.testing.assert_allclose(outcome.model, by_hand, atol=1e-5)


def test_the_third_lost_round_in_a_row_ends_the_run(tmp_path: Path) -> None:
    values = study_values(training={"rounds": 9})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)
    events: list[Event] = []

    with pytest.raises(FederationError) as caught:
        lossy(parse_study(values), files, silent_in(range(3, 10), B), events)

    line = caught.value.line()
    assert "round 5: 1 hospitals answered in time, 2 are needed" in line
    assert "deadline_seconds" in line
    assert "min_hospitals" in line
    assert [event.round for event in events if isinstance(event, RoundLost)] == [3, 4, 5]
    assert [event.round for event in events if isinstance(event, RoundStarted)] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_short_run_in_which_every_round_was_lost_is_not_judged(
    rounds: int, tmp_path: Path
) -> None:
    values = study_values(training={"rounds": rounds})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)
    asked: list[str] = []

    def lost(kind: str, number: int, node: int) -> bool:
        asked.append(kind)
        return node == B

    with pytest.raises(FederationError, match=rf"round {rounds}: 1 hospitals .*deadline_seconds"):
        lossy(parse_study(values), files, lost)

    assert set(asked) == {"train"}


def test_silence_until_the_deadline_is_an_error_that_names_the_deadline() -> None:
    study = study_of(
        training={"rounds": 9}, participation={"hospitals": 2, "deadline_seconds": 0.1}
    )
    silent = PostBox(lambda _: [], nodes=2)
    started = time.monotonic()

    with pytest.raises(FederationError, match=r"round 3: 0 hospitals .* 2 .*deadline_seconds"):
        Federation(study, silent, run="run", seed=0).train_and_judge()

    assert time.monotonic() - started >= 3 * 0.1


def test_as_many_as_the_study_needs_are_enough_and_the_silent_are_counted(tmp_path: Path) -> None:
    values = study_values(participation={"hospitals": 2, "min_hospitals": 1})
    wards = [ward(1, train=10), ward(2, train=10)]
    outcome = lossy(parse_study(values), opened(tmp_path, wards, values), silent_in([1, 2], B))

    assert [(r.answered, r.silent) for r in finished_rounds(outcome)] == [(1, 1), (1, 1)]
    np.testing.assert_allclose(outcome.model, averaged(wards[:1], [1], rounds=2), atol=1e-6)
    assert outcome.refusals == []
    assert outcome.test["records"] == 24


@pytest.mark.parametrize(("part", "number"), [("validation", 4), ("test", 5)])
def test_silence_when_the_final_model_is_judged_is_an_error_that_names_the_deadline(
    part: str, number: int, tmp_path: Path
) -> None:
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], study_values())

    def lost(kind: str, asked: int, node: int) -> bool:
        return (kind, asked, node) == ("evaluate", number, A)

    with pytest.raises(
        FederationError,
        match=rf"judging the final model on {part}: 1 hospitals .* 2 .*deadline_seconds",
    ):
        lossy(study_of(), files, lost)


def test_hospitals_that_never_come_are_an_error_that_counts_them(tmp_path: Path) -> None:
    values = study_values(participation={"hospitals": 2, "wait_seconds": 0.1})
    files = opened(tmp_path, [ward(1, train=10)], values)

    with pytest.raises(FederationError, match=r"1 of 2 hospitals .*wait_seconds"):
        federate(parse_study(values), files)


# --- Refusals -------------------------------------------------------------------------------------


def test_too_few_hospitals_is_an_error_that_names_the_hospital_and_its_reason(
    tmp_path: Path,
) -> None:
    files = opened(tmp_path, [ward(1, train=10), ward(2, train=10)], study_values())
    disapprove(files[1])

    with pytest.raises(FederationError) as caught:
        federate(study_of(), files)

    line = caught.value.line()
    assert "hospital B" in line
    assert "not approved" in line
    assert "round 1" in line
    assert study_of().digest()[:12] in line
    assert caught.value.todo


def test_a_refusal_ends_the_run_at_once(tmp_path: Path) -> None:
    """Asking again does not help, in whatever round a hospital says no."""
    values = study_values(training={"rounds": 9})
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], values)
    events: list[Event] = []

    def listener(event: Event) -> None:
        events.append(event)
        if isinstance(event, RoundFinished) and event.round == 2:
            disapprove(files[1])

    with InProcessGrid(files) as grid, pytest.raises(FederationError) as caught:
        Federation(
            parse_study(values), grid, run="run", seed=SEED, listener=listener
        ).train_and_judge()

    assert "round 3" in caught.value.line()
    assert "hospital B" in caught.value.line()
    assert [event.round for event in events if isinstance(event, RoundStarted)] == [1, 2, 3]
    assert [event.round for event in events if isinstance(event, Refused)] == [3]
    assert not [event for event in events if isinstance(event, RoundLost)]


def test_a_refusal_that_leaves_too_few_for_a_secure_sum_ends_the_run_at_once(
    tmp_path: Path,
) -> None:
    """Two of four decline: no further attempt of the other two can come to a sum of three."""
    values = study_values(
        training={"rounds": 9},
        aggregation={"secure": True},
        participation={"hospitals": 4, "min_hospitals": 3},
    )
    files = opened(tmp_path, [ward(n, train=10) for n in range(4)], values)
    found_consortium(files)
    asked: list[str] = []

    def counting(kind: str, number: int, node: int) -> bool:
        asked.append(kind)
        return False

    def listener(event: Event) -> None:
        if isinstance(event, RoundStarted):
            disapprove(files[0])
            disapprove(files[2])

    with (
        Losing(files, counting) as grid,
        pytest.raises(FederationError, match=r"hospital A: round 1: .*not approved"),
    ):
        Federation(
            parse_study(values), grid, run="run", seed=SEED, listener=listener
        ).train_and_judge()

    assert asked == ["query.advertise"] * 4 + ["train"] * 4


def test_a_refusal_is_told_rather_than_the_silence_beside_it(tmp_path: Path) -> None:
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], study_values())
    disapprove(files[1])

    with pytest.raises(FederationError, match=r"hospital B: round 1: .*not approved"):
        lossy(study_of(), files, silent_in([1, 2], A))


def test_other_failures_are_counted_in_the_error(tmp_path: Path) -> None:
    values = study_values(participation={"hospitals": 3})
    files = opened(tmp_path, [ward(n, train=10) for n in range(3)], values)
    disapprove(files[0])
    disapprove(files[2])

    with pytest.raises(FederationError, match=r"hospital A: .* 1 more refusal"):
        federate(parse_study(values), files)


def test_a_refusal_when_the_final_model_is_judged_names_the_hospital(tmp_path: Path) -> None:
    files = opened(tmp_path, [ward(n, train=10) for n in (1, 2)], study_values())

    def listener(event: Event) -> None:
        if isinstance(event, RoundFinished) and event.round == event.rounds:
            disapprove(files[0])

    with (
        InProcessGrid(files) as grid,
        pytest.raises(
            FederationError,
            match=r"hospital A: judging the final model on validation: .*not approved",
        ),
    ):
        Federation(study_of(), grid, run="run", seed=SEED, listener=listener).train_and_judge()


def test_a_lower_minimum_lets_the_federation_go_on_and_records_who_was_missing(
    tmp_path: Path,
) -> None:
    values = study_values(participation={"hospitals": 2, "min_hospitals": 1})
    wards = [ward(1, train=10), ward(2, train=10)]
    files = opened(tmp_path, wards, values)
    disapprove(files[1])
    events: list[Event] = []
    outcome = federate(parse_study(values), files, events=events)

    np.testing.assert_allclose(outcome.model, averaged(wards[:1], [1], rounds=2), atol=1e-6)
    # Two rounds of training, then validation and test of the final model.
    assert [refused.refusal.hospital for refused in outcome.refusals] == ["B"] * 4
    assert [refused.round for refused in outcome.refusals] == [1, 2, 4, 5]
    assert {refused.refusal.error for refused in outcome.refusals} == {"RefusedError"}
    assert [event for event in events if isinstance(event, Refused)] == outcome.refusals
    assert [finished.answered for finished in finished_rounds(outcome)] == [1, 1]
    assert outcome.test["records"] == 12


def test_the_vector_of_a_lying_client_never_enters_the_average(tmp_path: Path) -> None:
    values = study_values(participation={"hospitals": 2, "min_hospitals": 1})
    study = parse_study(values)
    wards = [ward(1, train=10), ward(2, train=10)]
    files = opened(tmp_path / "both", wards, values)
    liar = ClientApp()

    @liar.train()
    @liar.evaluate()
    def answer(message: Message, context: Context) -> Message:
        reply = hospital_app(message, context)
        if context.node_id == A:
            return reply
        short = reply.content.config_records["terms"]["float32"]
        assert isinstance(short, bytes)
        size = len(short) // 4
        return contribution(message, np.full(size, np.nan, dtype=np.float32), "Liar")

    lied_to = federate(study, files, client_app=liar)
    without = opened(tmp_path / "without", wards, values)
    disapprove(without[1])
    alone = federate(study, without)

    np.testing.assert_array_equal(lied_to.model, alone.model)
    assert lied_to.test == alone.test
    assert lied_to.curve == alone.curve
    assert {refused.refusal.hospital for refused in lied_to.refusals} == {"Liar"}
