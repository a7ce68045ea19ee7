"""One exchange: whatever comes back, in whatever order, only what can be used is added."""

from __future__ import annotations

import io
import random
import time
import weakref
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from hypothesis import given, settings
from hypothesis import strategies as st

from fedward.privacy.plain_sum import Layout
from fedward.server.exchange import Gathered, exchange
from fedward.simulation.grid import InProcessGrid
from fedward.study.messages import (
    Contribution,
    EvaluateRequest,
    Refusal,
    Request,
    TrainRequest,
    Vector,
)
from fedward.study.wire import pack_answer, unpack_train_request
from tests.server.conftest import PostBox, contribution

LAYOUT = Layout(parameters=2, metrics=1)
REQUEST = TrainRequest("digest", "run", 1, np.zeros(2, dtype=np.float32), None)
Answers = Callable[[Message], list[Message]]


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


def ask(
    grid: PostBox | InProcessGrid,
    request: Request = REQUEST,
    layout: Layout = LAYOUT,
    deadline: float = 30.0,
) -> Gathered:
    return exchange(
        grid,
        list(grid.get_node_ids()),
        request,
        layout,
        deadline=deadline,
        heard=lambda _: None,
    )


def honest(message: Message) -> list[Message]:
    """Node n answers [10 n, 20 n, n, 1]: an update of (10, 20) that weighs n."""
    node = message.metadata.dst_node_id
    return [contribution(message, vector(10 * node, 20 * node, node, 1), f"hospital-{node}")]


def with_liar(lie: Answers) -> Answers:
    """Nodes 1 and 3 are honest, node 2 is not."""
    return lambda message: (lie if message.metadata.dst_node_id == 2 else honest)(message)


def assert_only_honest(gathered: Gathered) -> None:
    assert sorted(gathered.answered) == ["hospital-1", "hospital-3"]
    assert gathered.total.weight == 4
    assert gathered.total.update.tolist() == [10, 20]
    assert gathered.total.metrics.tolist() == [2]


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
        return [contribution(message, vector(weight * node, 0, weight, node), f"h{node}")]

    def shuffled(replies: list[Message]) -> list[Message]:
        return chance.sample(replies, len(replies))

    heard: list[str] = []
    grid = PostBox(answers, nodes=len(weights), shuffle=shuffled, batch=batch)
    nodes = list(grid.get_node_ids())
    gathered = exchange(grid, nodes, REQUEST, LAYOUT, deadline=30, heard=heard.append)

    total = sum(weights)
    mean = sum(w * n for n, w in enumerate(weights, start=1)) / total
    assert gathered.total.weight == total
    assert gathered.total.update == pytest.approx([mean, 0])
    assert gathered.total.metrics.tolist() == [sum(nodes)]
    assert sorted(gathered.answered) == sorted(heard) == sorted(f"h{n}" for n in nodes)
    assert gathered.refusals == []
    assert gathered.silent == 0


def test_a_reply_is_dropped_once_it_was_added() -> None:
    alive: list[weakref.ref[Message]] = []
    most = 0

    class Watching(PostBox):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            replies = list(super().pull_messages(message_ids))
            alive.extend(map(weakref.ref, replies))
            return replies

    gathered = ask(Watching(honest, nodes=20))

    assert len(gathered.answered) == len(alive) == 20
    assert most <= 1


def test_the_request_reaches_every_node_whole() -> None:
    seen: list[Message] = []

    def answers(message: Message) -> list[Message]:
        seen.append(message)
        return honest(message)

    request = TrainRequest("the digest", "the run", 5, vector(1, 2), "validation")
    ask(PostBox(answers, nodes=3), request)

    assert [message.metadata.dst_node_id for message in seen] == [1, 2, 3]
    for message in seen:
        arrived = unpack_train_request(message.content)
        assert arrived.model.tolist() == [1, 2]
        assert (arrived.study, arrived.run, arrived.round) == ("the digest", "the run", 5)
        assert arrived.monitor == "validation"
        assert message.metadata.message_type == "train"


def test_an_app_that_raises_becomes_a_refusal_that_names_the_node() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            raise RuntimeError("the disk\nis full")
        return honest(message)[0]

    with InProcessGrid([Path("1"), Path("2"), Path("3")], client_app=app) as grid:
        gathered = ask(grid)

    assert_only_honest(gathered)
    (refusal,) = gathered.refusals
    assert refusal.hospital == "node 2"
    assert refusal.what == "is full"


def test_a_typed_refusal_arrives_as_it_was_said() -> None:
    said = Refusal("Charite", "RefusedError", "the budget is spent", "ask again next year")
    grid = PostBox(with_liar(lambda m: [Message(pack_answer(said), reply_to=m)]), nodes=3)

    gathered = ask(grid)

    assert_only_honest(gathered)
    assert gathered.refusals == [said]


@pytest.mark.parametrize("size", [0, 1, 3, 5, 4000])
def test_an_answer_of_another_size_is_left_out(size: int) -> None:
    wrong = np.ones(size, dtype=np.float32)
    gathered = ask(PostBox(with_liar(lambda m: [contribution(m, wrong)]), nodes=3))

    assert_only_honest(gathered)
    (refusal,) = gathered.refusals
    assert f"{size} values, expected 4" in refusal.what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(4))
def test_one_value_that_is_not_finite_keeps_the_whole_answer_out(value: float, place: int) -> None:
    lie = vector(1, 2, 3, 4)
    lie[place] = value
    gathered = ask(PostBox(with_liar(lambda m: [contribution(m, lie, "Liar")]), nodes=3))

    assert_only_honest(gathered)
    (refusal,) = gathered.refusals
    assert refusal.hospital == "Liar"
    assert "not finite" in refusal.what
    assert refusal.todo


def saved(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("vector.npy", saved(np.ones(4, dtype=np.float32)))
    return buffer.getvalue()


def records(data: bytes, stype: str = "numpy.ndarray", hospital: object = "Liar") -> RecordDict:
    """Records that say float32 of shape (4,), whatever the bytes are."""
    array = Array(dtype="float32", shape=(4,), stype=stype, data=data)
    terms = ConfigRecord({"hospital": hospital})  # type: ignore[dict-item]
    return RecordDict({"arrays": ArrayRecord({"vector": array}), "terms": terms})


def plain(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> RecordDict:
    terms = ConfigRecord({"hospital": "Liar"})
    return RecordDict({"arrays": ArrayRecord({"vector": Array(array)}), "terms": terms})


ONES = saved(np.ones(4, dtype=np.float32))
MALFORMED = {
    "nothing": RecordDict(),
    "no terms": RecordDict({"arrays": ArrayRecord({"vector": Array(np.ones(4))})}),
    "no arrays": RecordDict({"terms": ConfigRecord({"hospital": "Liar"})}),
    "no vector": RecordDict(
        {"arrays": ArrayRecord({"x": Array(np.ones(4))}), "terms": ConfigRecord({"hospital": "L"})}
    ),
    "terms of another kind": RecordDict({"terms": MetricRecord({"hospital": 1})}),
    "double precision": plain(np.ones(4)),
    "whole numbers": plain(np.ones(4, dtype=np.int64)),
    "a matrix": plain(np.ones((2, 2), dtype=np.float32)),
    "a nameless hospital": records(ONES, hospital=3),
    "an endless name": records(ONES, hospital="x" * 20_000),
    "bytes: none": records(b""),
    "bytes: noise": records(b"\x00\xff" * 50),
    "bytes: cut short": records(ONES[:-1]),
    "bytes: pickle": records(b"\x80\x04N."),
    "bytes: a zip": records(zipped()),
    "bytes: half a zip": records(zipped()[:60]),
    "bytes: complex": records(saved(np.full(4, 1j, dtype=np.complex64))),
    "bytes: text": records(saved(np.array(["a", "b", "c", "d"]))),
    "bytes: dates": records(saved(np.zeros(4, dtype="datetime64[s]"))),
    "bytes: double": records(saved(np.ones(4))),
    "bytes: a matrix": records(saved(np.ones((2, 2), dtype=np.float32))),
    "another serialization": records(ONES, stype="torch.tensor"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_answer_harms_no_other(kind: str) -> None:
    gathered = ask(PostBox(with_liar(lambda m: [Message(MALFORMED[kind], reply_to=m)]), nodes=3))

    assert_only_honest(gathered)
    (refusal,) = gathered.refusals
    assert refusal.what


@pytest.mark.parametrize("reason", [None, "", "\n \n", "Traceback ...\nKeyError: 'x'\n"])
def test_an_error_reply_is_a_refusal_with_some_reason(reason: str | None) -> None:
    def broken(message: Message) -> list[Message]:
        return [Message(Error(2, reason), reply_to=message)]

    gathered = ask(PostBox(with_liar(broken), nodes=3))

    assert_only_honest(gathered)
    (refusal,) = gathered.refusals
    assert refusal.hospital == "node 2"
    assert refusal.what == ("KeyError: 'x'" if reason and "Key" in reason else refusal.what)
    assert refusal.what.strip()


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_an_answer_that_comes_twice_counts_once(batch: int) -> None:
    gathered = ask(PostBox(lambda m: honest(m) * 2, nodes=3, batch=batch))

    assert sorted(gathered.answered) == ["hospital-1", "hospital-2", "hospital-3"]
    assert gathered.total.weight == 6
    assert gathered.total.metrics.tolist() == [3]


def test_an_answer_to_a_question_that_was_not_asked_is_ignored() -> None:
    def forged(message: Message) -> list[Message]:
        stray = honest(message)[0]
        stray.metadata.__dict__["_reply_to_message_id"] = "message-999"
        return [stray, *honest(message)]

    gathered = ask(PostBox(forged, nodes=2, batch=4))

    assert gathered.total.weight == 3
    assert sorted(gathered.answered) == ["hospital-1", "hospital-2"]


def test_the_deadline_passes_with_a_silent_node() -> None:
    started = time.monotonic()
    gathered = ask(PostBox(with_liar(lambda _: []), nodes=3), deadline=0.3)
    took = time.monotonic() - started

    assert_only_honest(gathered)
    assert gathered.silent == 1
    assert 0.3 <= took < 5


def test_an_answer_after_the_deadline_is_not_waited_for() -> None:
    class Slow(PostBox):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if time.monotonic() - started < 5:
                return []
            return super().pull_messages(message_ids)

    grid = Slow(honest, nodes=2)
    started = time.monotonic()
    gathered = ask(grid, deadline=0.2)

    assert time.monotonic() - started < 4
    assert (gathered.answered, gathered.silent) == ([], 2)
    assert gathered.total.weight == 0
    assert gathered.total.update.tolist() == [0, 0]


def test_a_node_that_could_not_be_reached_is_silent() -> None:
    class Unreachable(PostBox):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return super().push_messages(list(messages)[:-1])

    gathered = ask(Unreachable(honest, nodes=3))

    assert sorted(gathered.answered) == ["hospital-1", "hospital-2"]
    assert gathered.silent == 1


def test_metrics_travel_without_a_model() -> None:
    def judged(message: Message) -> list[Message]:
        assert message.metadata.message_type == "evaluate"
        return [contribution(message, vector(0, 5, 7))]

    request = EvaluateRequest("digest", "run", 2, vector(1, 2), "test")
    gathered = ask(PostBox(judged, nodes=3), request, Layout(parameters=0, metrics=2))

    assert gathered.total.update.shape == (0,)
    assert gathered.total.weight == 0
    assert gathered.total.metrics.tolist() == [15, 21]


def test_thousands_of_small_contributions_lose_no_digit() -> None:
    """In single precision 2**24 + 1 is 2**24: the sum must be in double."""

    def answers(message: Message) -> list[Message]:
        first = message.metadata.dst_node_id == 1
        return [contribution(message, vector(0, 0, 1, 2.0**24 if first else 1))]

    gathered = ask(PostBox(answers, nodes=1000, batch=100))

    assert gathered.total.metrics.tolist() == [2.0**24 + 999]


def test_contributions_have_names() -> None:
    answer = Contribution("Saint Mary's", vector(1, 1, 1, 1))
    grid = PostBox(lambda m: [Message(pack_answer(answer), reply_to=m)], nodes=1)

    assert ask(grid).answered == ["Saint Mary's"]
