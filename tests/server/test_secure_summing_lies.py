"""What nodes say that is not their own, or not what was asked, harms no other's sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from fedward.study.messages import (
    Advertised,
    Answer,
    Contribution,
    MaskedContribution,
    Refusal,
    Unmasked,
    Vector,
)
from tests.privacy.conftest import fast_folder
from tests.secure_sites import Run
from tests.server.secure_ward import ABCD, Change, Ward, ward_in, when


@pytest.fixture
def ward() -> Iterator[Ward]:
    """Four hospitals on a good line."""
    with fast_folder() as folder:
        yield ward_in(folder)


# --- Refusals and lies ----------------------------------------------------------------------------


def test_whoever_refuses_to_train_is_named_and_left_out(ward: Ward) -> None:
    refusal = Refusal("c", "TrainingError", "out of memory", "lower batch_size")
    ward.fate = when((lambda _: refusal, {"exchange": "train", "hospital": "c"}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, "abd")
    assert (gathered.attempts, gathered.silent) == (1, 0)
    assert gathered.refusals == [refusal]


def test_whoever_cannot_advertise_takes_no_part(ward: Ward) -> None:
    for file in (ward.run.sites.files["b"].parent / "studies").iterdir():
        file.unlink()

    (said,) = ward.begin()
    gathered = ward.gather(ward.request())

    assert said.hospital == "b"
    assert "is not approved here" in said.what
    ward.holds(gathered, "acd")
    assert ward.times("train", "b") == 0


def test_fewer_members_than_a_sum_must_contain_are_not_asked_at_all(ward: Ward) -> None:
    ward.fate = when(("lost", {"exchange": "advertise", "hospital": {"b", "c", "d"}}))
    ward.begin()

    gathered = ward.gather(ward.request())

    assert gathered.total is None
    assert gathered.why
    assert ward.times("train", "a") == 0


def advert_of(ward: Ward, name: str) -> bytes:
    return ward.run.adverts[name]


@pytest.mark.parametrize(
    "claim",
    [
        lambda w: Advertised("b", advert_of(w, "a")),  # its name, a's advert
        lambda w: Advertised("a", advert_of(w, "b")),  # a's name, its advert
        lambda w: Advertised("a", advert_of(w, "a")),  # a once more
        lambda w: Advertised("b", Run(w.run.sites, w.run.study, "run-2").adverts["b"]),
        lambda w: Advertised("b", b"nothing"),
        lambda w: Advertised("b", advert_of(w, "b")[:-1]),
        lambda w: Contribution("b", np.zeros(0, dtype=np.float32)),
    ],
    ids=[
        "another's advert",
        "another's name",
        "another altogether",
        "another run",
        "noise",
        "cut",
        "another kind",
    ],
)
def test_a_node_that_advertises_what_is_not_its_own_takes_no_part(
    claim: Callable[[Ward], Answer], ward: Ward
) -> None:
    said = claim(ward)
    ward.fate = when((lambda _: said, {"exchange": "advertise", "hospital": "b"}))

    refusals = ward.begin()
    gathered = ward.gather(ward.request())

    assert len(refusals) == 1
    ward.holds(gathered, "acd")
    assert ward.times("train", "b") == 0


def test_two_nodes_of_one_hospital_are_one_hospital(ward: Ward) -> None:
    """Somebody started a's file twice: the second node is told so, and the others sum."""
    ward.run.sites.files["b"] = ward.run.sites.files["a"]

    (said,) = ward.begin()

    assert "advertised in the name of a" in said.what
    assert "hospital.toml" in said.todo
    ward.holds(ward.gather(ward.request()), "acd")


def longer(answer: Answer) -> Answer:
    assert isinstance(answer, MaskedContribution)
    words = np.append(answer.masked.words, np.uint32(0))
    return replace(answer, masked=replace(answer.masked, words=words))


def fewer_shares(answer: Answer) -> Answer:
    assert isinstance(answer, MaskedContribution)
    return replace(answer, masked=replace(answer.masked, shares={"a": b"x"}))


def in_the_clear(answer: Answer) -> Answer:
    assert isinstance(answer, MaskedContribution)
    vector: Vector = np.zeros(len(answer.masked.words), dtype=np.float32)
    return Contribution(answer.hospital, vector)


def as_a(answer: Answer) -> Answer:
    assert not isinstance(answer, Refusal)
    return replace(answer, hospital="a")


def as_d(answer: Answer) -> Answer:
    """In the name of one who has not answered yet."""
    assert not isinstance(answer, Refusal)
    return replace(answer, hospital="d")


@pytest.mark.parametrize("lie", [longer, fewer_shares, in_the_clear, as_a, as_d])
def test_a_masked_answer_that_is_none_is_left_out(lie: Change, ward: Ward) -> None:
    ward.fate = when((lie, {"exchange": "train", "hospital": "b"}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, "acd")
    assert len(gathered.refusals) == 1
    assert gathered.attempts == 1


def advertises_instead(answer: Answer) -> Answer:
    return Advertised("b", b"x")


def others_shares(answer: Answer) -> Answer:
    assert isinstance(answer, Unmasked)
    return replace(answer, unmasking=replace(answer.unmasking, self_shares={"a": b"x"}))


@pytest.mark.parametrize("lie", [advertises_instead, others_shares, as_a, as_d])
def test_help_that_is_none_is_left_out(lie: Change, ward: Ward) -> None:
    """Nobody dropped out, so the three others are enough."""
    ward.fate = when((lie, {"exchange": "unmask", "hospital": "b"}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert len(gathered.refusals) == 1
    assert gathered.silent == 0


def false_share(answer: Answer) -> Answer:
    assert isinstance(answer, Unmasked)
    shares = {n: s[:-1] + bytes([s[-1] ^ 1]) for n, s in answer.unmasking.self_shares.items()}
    return replace(answer, unmasking=replace(answer.unmasking, self_shares=shares))


def test_false_shares_give_no_sum_rather_than_a_false_one(ward: Ward) -> None:
    ward.fate = when((false_share, {"exchange": "unmask", "hospital": "a"}))
    ward.begin()

    gathered = ward.gather(ward.request())

    assert gathered.total is None
    assert gathered.attempts <= 5
    assert gathered.why


def test_after_false_shares_an_honest_attempt_gives_the_sum(ward: Ward) -> None:
    ward.fate = when((false_share, {"exchange": "unmask", "hospital": "a", "attempt": 1}))
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert gathered.attempts == 2


@pytest.mark.parametrize("exchange", ["advertise", "train", "unmask"])
def test_an_answer_that_is_delivered_twice_counts_once(exchange: str, ward: Ward) -> None:
    ward.fate = when(("twice", {"exchange": exchange}))

    assert ward.begin() == []
    gathered = ward.gather(ward.request())

    ward.holds(gathered, ABCD)
    assert gathered.refusals == []
    assert sorted(ward.heard) == [*ABCD]


@pytest.mark.parametrize("exchange", ["train", "unmask"])
def test_an_answer_that_comes_after_its_attempt_is_not_counted(exchange: str, ward: Ward) -> None:
    """It was masked for the first attempt, and lands in the middle of the second."""
    ward.fate = when(
        ("late", {"exchange": exchange, "hospital": "c", "attempt": 1}),
        ("lost", {"exchange": "train", "hospital": "d", "attempt": 1}),
    )
    ward.begin()

    gathered = ward.gather(ward.request())

    ward.holds(gathered, gathered.answered)
    assert gathered.attempts <= 2
    assert gathered.refusals == []
