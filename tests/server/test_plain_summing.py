"""Adding up in the clear: the sum over those who answered, or why there is none."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from flwr.app import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.contribution import Layout
from fedward.server.summing import Gathered, PlainSumming
from fedward.study.messages import (
    Advertised,
    Answer,
    EvaluateRequest,
    Masked,
    MaskedContribution,
    Refusal,
    Request,
    TrainRequest,
    Unmasked,
    Unmasking,
    Vector,
)
from fedward.study.wire import pack_answer
from tests.server.conftest import PostBox, contribution, study_of

LAYOUT = Layout(parameters=2, metrics=1)
REQUEST = TrainRequest("digest", "run", 1, np.zeros(2, dtype=np.float32), None)


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def gather(
    grid: PostBox,
    request: Request = REQUEST,
    layout: Layout = LAYOUT,
    *,
    heard: list[str] | None = None,
    aggregation: dict[str, Any] | None = None,
    **who: int | float,
) -> Gathered:
    """Ask every node of the grid; all of them are needed, or as many as `min_hospitals` says."""
    nodes = list(grid.get_node_ids())
    study = study_of(
        participation={"hospitals": len(nodes), "deadline_seconds": 30.0, **who},
        aggregation=aggregation or {},
    )
    summing = PlainSumming(study, grid)
    return summing.gather(
        nodes, request, layout, heard=(lambda _: None) if heard is None else heard.append
    )


def honest(message: Message) -> list[Message]:
    """Node n answers with an update of (10, 20) that weighs n, and counts 1."""
    node = message.metadata.dst_node_id
    return [contribution(message, vector(10 * node, 20 * node, node, 0, 0, 0, 1), f"h{node}")]


@given(
    weights=st.lists(st.integers(1, 50), min_size=1, max_size=8),
    batch=st.integers(1, 4),
    chance=st.randoms(use_true_random=False),
)
@settings(deadline=None)
def test_the_sum_is_the_same_in_whatever_order_answers_come(
    weights: list[int], batch: int, chance: random.Random
) -> None:
    def answers(message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        weight = weights[node - 1]
        return [contribution(message, vector(weight * node, 0, weight, 1, 0, 0, node), f"h{node}")]

    def shuffled(replies: list[Message]) -> list[Message]:
        return chance.sample(replies, len(replies))

    heard: list[str] = []
    gathered = gather(
        PostBox(answers, nodes=len(weights), shuffle=shuffled, batch=batch), heard=heard
    )

    total = sum(weights)
    mean = sum(w * n for n, w in enumerate(weights, start=1)) / total
    nodes = range(1, len(weights) + 1)
    assert gathered.total is not None
    assert gathered.total.weight == total
    assert gathered.total.update == pytest.approx([mean, 0])
    assert gathered.total.metrics.tolist() == [sum(nodes)]
    assert (gathered.total.clipped, gathered.total.capped) == (len(weights), 0)
    assert sorted(gathered.answered) == sorted(heard) == sorted(f"h{n}" for n in nodes)
    assert gathered.refusals == []
    assert gathered.silent == 0
    assert (gathered.attempts, gathered.why) == (1, "")


def test_metrics_travel_without_a_model() -> None:
    def judged(message: Message) -> list[Message]:
        assert message.metadata.message_type == "evaluate"
        assert message.metadata.group_id == "6"
        name = f"h{message.metadata.dst_node_id}"
        return [contribution(message, vector(0, 0, 0, 0, 5, 7), name)]

    request = EvaluateRequest("digest", "run", 6, vector(1, 2), "test")
    gathered = gather(PostBox(judged, nodes=3), request, Layout(parameters=0, metrics=2))

    assert gathered.total is not None
    assert gathered.total.update.shape == (0,)
    assert gathered.total.weight == 0
    assert gathered.total.metrics.tolist() == [15, 21]


def test_thousands_of_small_contributions_lose_no_digit() -> None:
    """In single precision 2**24 + 1 is 2**24: the sum must be in double."""

    def answers(message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        counts = 2.0**24 if node == 1 else 1
        return [contribution(message, vector(0, 0, 1, 0, 0, 0, counts), f"h{node}")]

    gathered = gather(PostBox(answers, nodes=1000, batch=100))

    assert gathered.total is not None
    assert gathered.total.metrics.tolist() == [2.0**24 + 999]


@pytest.mark.parametrize("answering", [0, 1, 2, 3, 4])
def test_there_is_a_sum_if_as_many_answer_as_the_study_needs(answering: int) -> None:
    def answers(message: Message) -> list[Message]:
        return honest(message) if message.metadata.dst_node_id <= answering else []

    grid = PostBox(answers, nodes=4)
    gathered = gather(grid, min_hospitals=2, deadline_seconds=0.1)

    assert sorted(gathered.answered) == [f"h{n}" for n in range(1, answering + 1)]
    assert gathered.silent == 4 - answering
    if answering >= 2:
        assert gathered.total is not None
        assert gathered.total.weight == sum(range(1, answering + 1))
        assert gathered.why == ""
    else:
        assert gathered.total is None
        assert gathered.each == []
        assert gathered.why == f"{answering} hospitals answered in time, 2 are needed"


def test_a_refusal_is_no_answer_and_no_silence() -> None:
    said = Refusal("Charite", "BudgetError", "the budget is spent", "ask again next year")

    def answers(message: Message) -> list[Message]:
        if message.metadata.dst_node_id == 2:
            return [Message(pack_answer(said), reply_to=message)]
        return honest(message)

    heard: list[str] = []
    gathered = gather(PostBox(answers, nodes=3), heard=heard)

    assert sorted(heard) == sorted(gathered.answered) == ["h1", "h3"]
    assert gathered.refusals == [said]
    assert gathered.silent == 0
    assert gathered.total is None
    assert gathered.why == "2 hospitals answered in time, 3 are needed"


OTHER_ANSWERS: dict[str, Answer] = {
    "an advert": Advertised("Liar", b"advert"),
    "a masked vector": MaskedContribution(
        "Liar", Masked(np.ones(7, dtype=np.uint32), {"h1": b"share"}, bytes(32))
    ),
    "help to open a sum": Unmasked("Liar", Unmasking({"h1": b"share"}, {"h3": b"seed"})),
}


@pytest.mark.parametrize("kind", OTHER_ANSWERS)
def test_an_answer_of_another_kind_is_left_out(kind: str) -> None:
    def answers(message: Message) -> list[Message]:
        if message.metadata.dst_node_id == 2:
            return [Message(pack_answer(OTHER_ANSWERS[kind]), reply_to=message)]
        return honest(message)

    gathered = gather(PostBox(answers, nodes=3), min_hospitals=2)

    assert sorted(gathered.answered) == ["h1", "h3"]
    assert gathered.total is not None
    assert gathered.total.weight == 4
    (refusal,) = gathered.refusals
    assert refusal.hospital == "Liar"
    assert "another kind of answer" in refusal.what


def test_a_strategy_of_the_mean_is_given_nothing_but_the_mean() -> None:
    gathered = gather(PostBox(honest, nodes=3))

    (mean,) = gathered.each
    assert mean.update.tolist() == [10, 20]
    assert mean.weight == 6


def test_a_strategy_that_compares_is_given_every_update_as_it_came() -> None:
    def answers(message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        return [contribution(message, vector(2 * node**2, 0, 2, 0, 0, 0, 1), f"h{node}")]

    gathered = gather(PostBox(answers, nodes=3), aggregation={"strategy": "fedmedian"})

    assert [each.update.tolist() for each in gathered.each] == [[1, 0], [4, 0], [9, 0]]
    assert gathered.total is not None
    assert gathered.total.update == pytest.approx([14 / 3, 0])


def test_nothing_is_asked_before_a_run() -> None:
    def never(message: Message) -> list[Message]:
        raise AssertionError(message.metadata.message_type)

    grid = PostBox(never, nodes=3)
    summing = PlainSumming(study_of(participation={"hospitals": 3}), grid)

    assert summing.begin(list(grid.get_node_ids())) == []


def test_a_second_answer_under_one_name_is_left_out() -> None:
    def answers(message: Message) -> list[Message]:
        node = message.metadata.dst_node_id
        name = "h1" if node == 2 else f"h{node}"
        return [contribution(message, vector(10 * node, 0, 1, 0, 0, 0, 1), name)]

    gathered = gather(PostBox(answers, nodes=3), min_hospitals=2)

    assert sorted(gathered.answered) == ["h1", "h3"]
    (refused,) = gathered.refusals
    assert refused.hospital == "h1"
    assert "already" in refused.what
    assert gathered.total is not None
    assert gathered.total.weight == 2
    assert gathered.total.update.tolist() == [20, 0]
