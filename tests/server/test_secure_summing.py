"""Secure sums over real hospitals, whoever drops out and whichever messages are lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedward.study.messages import Answer, Refusal
from tests.privacy.conftest import fast_folder
from tests.server.secure_ward import ABCD, Ward, ward_in, when


@pytest.fixture
def ward() -> Iterator[Ward]:
    """Four hospitals on a good line."""
    with fast_folder() as folder:
        yield ward_in(folder)


# --- The sum --------------------------------------------------------------------------------------


def test_without_dropouts_the_sum_is_over_everybody_at_the_first_attempt(ward: Ward) -> None:
    assert ward.begin() == []

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert (gathered.attempts, gathered.silent, gathered.refusals) == (1, 0, [])
    assert sorted(ward.heard) == [*ABCD]
    kinds = Counter(asked.exchange for asked in ward.asked)
    assert kinds == {"advertise": 4, "train": 4, "unmask": 4}


def test_rounds_and_judging_follow_each_other_with_the_same_adverts(ward: Ward) -> None:
    ward.begin()
    for number in (1, 2, 3):
        ward.holds(ward.gather(ward.request(number)), ABCD, number)
    judge = replace(ward.run.evaluate("test"), invitation=None)

    gathered = ward.gather(judge)

    assert gathered.total is not None
    expected = ward.expected(judge, ABCD)
    assert np.array_equal(np.delete(gathered.total.metrics, 1), np.delete(expected.metrics, 1))
    assert gathered.total.update.shape == (0,)
    assert Counter(asked.exchange for asked in ward.asked)["advertise"] == 4
    assert ward.run.sites.charges() == dict.fromkeys(ABCD, 3)


@pytest.mark.parametrize("dropped", ABCD)
@pytest.mark.parametrize("fate", ["lost", "answer lost"])
def test_whoever_drops_out_before_or_after_masking_is_left_out(
    fate: str, dropped: str, ward: Ward
) -> None:
    ward.fate = when((fate, {"exchange": "train", "hospital": dropped}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, [name for name in ABCD if name != dropped])
    assert (gathered.attempts, gathered.silent) == (1, 1)
    assert ward.times("unmask", dropped) == 0
    assert dropped not in ward.heard


def test_true_silence_is_waited_for_until_the_deadline_and_no_longer(ward: Ward) -> None:
    who = ward.run.study.participation.model_copy(update={"deadline_seconds": 1.0})
    ward.run.study = ward.run.study.model_copy(update={"participation": who})
    ward.run.sites.approve(ward.run.study)
    ward.begin()
    ward.fate = when(("silence", {"exchange": "train", "hospital": "b"}))

    gathered = ward.gather(replace(ward.request(), study=ward.run.study.digest()))

    assert sorted(gathered.answered) == ["a", "c", "d"]
    assert (gathered.attempts, gathered.silent) == (1, 1)


def test_too_few_are_asked_again_without_training_again(ward: Ward) -> None:
    """Two of four are silent at first: c never heard the question, d's answer was lost."""
    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "c", "attempt": 1}),
        ("answer lost", {"exchange": "train", "hospital": "d", "attempt": 1}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert gathered.attempts == 2
    assert ward.run.sites.charges() == dict.fromkeys(ABCD, 1)
    assert sorted(ward.heard) == [*ABCD]  # each is reported once


def test_a_lost_advert_is_asked_for_again(ward: Ward) -> None:
    """Whoever is not heard then takes no part in the whole run."""
    ward.fate = when(("answer lost", {"exchange": "advertise", "hospital": "c", "time": {1, 2}}))

    assert ward.begin() == []
    ward.holds(ward.gather(ward.request()), ABCD)


def test_attempts_are_bounded(ward: Ward) -> None:
    ward.fate = when(("lost", {"exchange": "train", "hospital": {"b", "c"}}))
    ward.begin()

    gathered = ward.gather(ward.request())

    assert gathered.total is None
    assert gathered.each == []
    assert gathered.attempts == 5
    assert "2 hospitals answered in time, 3 are needed" in gathered.why
    assert ward.times("train", "a") == 5
    assert ward.times("unmask", "a") == 0
    assert ward.run.sites.charges()["a"] == 1


# --- Silence at unmask ----------------------------------------------------------------------------


def test_an_answer_lost_once_is_asked_for_again(ward: Ward) -> None:
    """d dropped out, so every survivor's help is needed."""
    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "d"}),
        ("answer lost", {"exchange": "unmask", "hospital": "b", "time": 1}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, "abc")
    assert gathered.attempts == 1
    assert [ward.times("unmask", name) for name in "abc"] == [1, 2, 1]


def test_where_nobody_dropped_out_enough_survivors_are_enough(ward: Ward) -> None:
    ward.fate = when(("lost", {"exchange": "unmask", "hospital": "b"}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert gathered.attempts == 1
    assert ward.times("unmask", "b") == 1


def test_a_survivor_silent_for_a_whole_attempt_gets_another_with_the_same_survivors(
    ward: Ward,
) -> None:
    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "d"}),
        ("lost", {"exchange": "unmask", "hospital": "c", "attempt": 1}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, "abc")
    assert gathered.attempts == 2
    assert ward.times("train", "d") == 1  # not invited again: the others are bound to each other
    assert ward.run.sites.charges() == {"a": 1, "b": 1, "c": 1, "d": 0}


def test_nobody_joins_those_who_were_asked_to_unmask(ward: Ward) -> None:
    """d comes back for the second attempt, and two sums would subtract to its update."""
    ward.fate = when(
        ("answer lost", {"exchange": "train", "hospital": "d", "attempt": 1}),
        ("answer lost", {"exchange": "unmask", "hospital": "c", "attempt": {1, 2}}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, "abc")
    assert gathered.attempts == 3
    assert gathered.refusals == []


def test_survivors_are_bound_even_where_fewer_of_them_would_do(ward: Ward) -> None:
    """All four were to be unmasked and two helped; three are enough, but not the same sum."""
    ward.fate = when(
        ("lost", {"exchange": "unmask", "hospital": {"c", "d"}, "attempt": 1}),
        ("lost", {"exchange": "train", "hospital": "d", "attempt": 2}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert gathered.attempts == 3
    assert gathered.refusals == []
    assert not [a for a in ward.asked if a.exchange == "unmask" and a.attempt == 2]


def test_silence_for_ever_is_given_up_and_the_next_round_works(ward: Ward) -> None:
    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "d", "round": 1}),
        ("lost", {"exchange": "unmask", "hospital": "c", "round": 1}),
    )
    ward.begin()

    lost = ward.gather(ward.request())
    after = ward.gather(ward.request(2))

    assert lost.total is None
    assert lost.answered == []
    assert lost.attempts == 5
    assert "2 of 3 survivors helped to unmask" in lost.why
    assert ward.times("unmask", "c") == 5 * 3
    ward.holds(after, ABCD, 2)
    assert after.attempts == 1


def test_when_a_bound_survivor_does_not_mask_again_the_round_is_given_up(ward: Ward) -> None:
    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "d", "round": 1}),
        ("lost", {"exchange": "unmask", "hospital": "c", "round": 1}),
        ("lost", {"exchange": "train", "hospital": "c", "round": 1, "attempt": range(2, 99)}),
    )
    ward.begin()

    lost = ward.gather(ward.request())

    assert lost.total is None
    assert lost.attempts <= 5
    assert not [a for a in ward.asked if a.exchange == "unmask" and a.attempt > 1]
    ward.holds(ward.gather(ward.request(2)), ABCD, 2)


def test_when_a_survivor_declines_the_round_is_given_up_at_once(ward: Ward) -> None:
    def declines(answer: Answer) -> Answer:
        return Refusal("c", "RefusedError", "no more", "ask it")

    ward.fate = when(
        ("lost", {"exchange": "train", "hospital": "d", "round": 1}),
        (declines, {"exchange": "unmask", "hospital": "c", "round": 1}),
    )
    ward.begin()

    lost = ward.gather(ward.request())

    assert lost.total is None
    assert lost.attempts == 1
    assert [refusal.what for refusal in lost.refusals] == ["no more"]
    ward.holds(ward.gather(ward.request(2)), ABCD, 2)
