"""One exchange: whatever comes back, in whatever order, only what can be used is handed over."""

from __future__ import annotations

import io
import time
import weakref
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

from fedward.privacy.contribution import Layout
from fedward.privacy.plain_sum import PlainSum
from fedward.server.exchange import Heard, Take, exchange
from fedward.simulation.grid import InProcessGrid
from fedward.study.errors import RefusedError
from fedward.study.messages import Advertised, Answer, Contribution, Refusal, TrainRequest, Vector
from fedward.study.wire import pack_answer, pack_request, unpack_train_request
from tests.server.conftest import PostBox, contribution

LAYOUT = Layout(parameters=2, metrics=1)
REQUEST = TrainRequest("digest", "run", 1, np.zeros(2, dtype=np.float32), None)
Answers = Callable[[Message], list[Message]]


def vector(*values: float) -> Vector:
    return np.array(values, dtype=np.float32)


@dataclass
class Came:
    """What an exchange said, and the sum of what it handed over."""

    running: PlainSum = field(default_factory=lambda: PlainSum(LAYOUT))
    names: list[str] = field(default_factory=list)
    nodes: list[int] = field(default_factory=list)
    heard: Heard = field(default_factory=Heard)

    def take(self, node: int, answer: Answer) -> None:
        assert isinstance(answer, Contribution)
        self.running.add(answer.vector)
        self.names.append(answer.hospital)
        self.nodes.append(node)


def ask(
    grid: PostBox | InProcessGrid,
    request: TrainRequest = REQUEST,
    take: Take | None = None,
    deadline: float = 30.0,
    size: int = LAYOUT.size,
) -> Came:
    """Ask every node to train, and add up what comes; or hand it to another `take`."""
    came = Came()
    came.heard = exchange(
        grid,
        dict.fromkeys(grid.get_node_ids(), pack_request(request)),
        "train",
        take or came.take,
        group="1",
        size=size,
        deadline=deadline,
    )
    if take is None:
        assert came.heard.answered == came.nodes
    return came


def honest(message: Message) -> list[Message]:
    """Node n answers [10 n, 20 n, n, 0, 0, 1]: an update of (10, 20) that weighs n."""
    node = message.metadata.dst_node_id
    return [
        contribution(message, vector(10 * node, 20 * node, node, 0, 0, 0, 1), f"hospital-{node}")
    ]


def with_liar(lie: Answers) -> Answers:
    """Nodes 1 and 3 are honest, node 2 is not."""
    return lambda message: (lie if message.metadata.dst_node_id == 2 else honest)(message)


def assert_only_honest(came: Came) -> None:
    assert sorted(came.heard.answered) == [1, 3]
    assert sorted(came.names) == ["hospital-1", "hospital-3"]
    total = came.running.total()
    assert total.weight == 4
    assert total.update.tolist() == [10, 20]
    assert total.metrics.tolist() == [2]


def refusal_of_the_liar(came: Came) -> Refusal:
    """Node 2 was heard, and what it said is no answer."""
    assert came.heard.silent == []
    assert list(came.heard.refusals) == [2]
    return came.heard.refusals[2]


def test_a_reply_is_dropped_once_it_was_taken() -> None:
    alive: list[weakref.ref[Message]] = []
    most = 0

    class Watching(PostBox):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            nonlocal most
            most = max(most, sum(ref() is not None for ref in alive))
            replies = list(super().pull_messages(message_ids))
            alive.extend(map(weakref.ref, replies))
            return replies

    came = ask(Watching(honest, nodes=20))

    assert len(came.names) == len(alive) == 20
    assert most <= 1


@pytest.mark.parametrize(("size", "held"), [(7, [0]), (40_000, [0, 0])])
def test_what_a_reply_held_is_gone_even_if_somebody_keeps_the_reply(
    size: int, held: list[int]
) -> None:
    """Flower's messages outlive their last use; a vector is as large as the model."""
    kept: list[Message] = []

    def answers(message: Message) -> list[Message]:
        wrong = message.metadata.dst_node_id == 2  # one of them is refused
        kept.append(contribution(message, np.ones(size - wrong, dtype=np.float32)))
        return [kept[-1]]

    came = ask(PostBox(answers, nodes=3), take=lambda node, answer: None, size=size)

    assert (came.heard.answered, list(came.heard.refusals)) == ([1, 3], [2])
    assert [[len(found) for found in reply.content.values()] for reply in kept] == 3 * [held]


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
        assert message.metadata.group_id == "1"
        assert message.metadata.ttl == 30


def test_every_node_is_asked_what_is_meant_for_it() -> None:
    seen: dict[int, tuple[str, str]] = {}

    def answers(message: Message) -> list[Message]:
        asked = unpack_train_request(message.content)
        seen[message.metadata.dst_node_id] = (message.metadata.message_type, asked.run)
        return honest(message)

    runs = {1: "for the first", 3: "for the third"}
    contents = {
        node: pack_request(TrainRequest("digest", run, 1, vector(1, 2)))
        for node, run in runs.items()
    }
    came = Came()
    heard = exchange(
        *(PostBox(answers, nodes=3), contents, "query.unmask", came.take),
        group="1",
        size=LAYOUT.size,
        deadline=30,
    )

    assert seen == {node: ("query.unmask", run) for node, run in runs.items()}
    assert heard.answered == came.nodes == [1, 3]
    assert heard.silent == []


def test_asking_nobody_is_no_error() -> None:
    came = ask(PostBox(honest, nodes=0))

    assert came.heard == Heard()


@pytest.mark.parametrize(
    "error", [ValueError("it has no room"), RefusedError("it has no room", todo="make some")]
)
def test_what_cannot_be_taken_is_a_refusal_and_harms_no_other(error: Exception) -> None:
    came = Came()

    def take(node: int, answer: Answer) -> None:
        if node == 2:
            raise error
        came.take(node, answer)

    came.heard = ask(PostBox(honest, nodes=3), take=take).heard

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
    assert refusal.hospital == "hospital-2"
    assert refusal.what == "it has no room"
    assert refusal.todo == ("make some" if isinstance(error, RefusedError) else "")


def test_an_answer_of_any_kind_is_handed_over() -> None:
    def answers(message: Message) -> list[Message]:
        advert = Advertised("north", b"a packed advert")
        return [Message(pack_answer(advert), reply_to=message)]

    found: dict[int, Answer] = {}
    heard = ask(PostBox(answers, nodes=1), take=found.__setitem__).heard

    assert found == {1: Advertised("north", b"a packed advert")}
    assert heard.answered == [1]


def test_an_app_that_raises_becomes_a_refusal_that_names_the_node() -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            raise RuntimeError("the disk\nis full")
        return honest(message)[0]

    with InProcessGrid([Path("1"), Path("2"), Path("3")], client_app=app) as grid:
        came = ask(grid)

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
    assert refusal.hospital == "node 2"
    assert refusal.what == "is full"


@pytest.mark.parametrize("ends", ["\x1b]0;owned\x07\x1b[2J\x1b[31m", "\u202e\x9b2J" + "x" * 10_000])
def test_a_reason_cannot_move_a_terminal_s_cursor_and_is_short(ends: str) -> None:
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "Traceback\nit failed " + ends)
    came = ask(PostBox(with_liar(lambda m: [Message(error, reply_to=m)]), nodes=3))

    assert_only_honest(came)
    what = refusal_of_the_liar(came).what
    assert what.startswith("it failed \ufffd")
    assert what.isprintable()
    assert len(what) <= 500


def test_a_typed_refusal_arrives_as_it_was_said() -> None:
    said = Refusal("Charite", "RefusedError", "the budget is spent", "ask again next year")
    grid = PostBox(with_liar(lambda m: [Message(pack_answer(said), reply_to=m)]), nodes=3)

    came = ask(grid)

    assert_only_honest(came)
    assert refusal_of_the_liar(came) == said


@pytest.mark.parametrize("size", [0, 1, 5, 6, 8, 4000])
def test_an_answer_of_another_size_is_left_out(size: int) -> None:
    wrong = np.ones(size, dtype=np.float32)
    came = ask(PostBox(with_liar(lambda m: [contribution(m, wrong)]), nodes=3))

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
    assert f"{size} values, expected 7" in refusal.what


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", range(7))
def test_one_value_that_is_not_finite_keeps_the_whole_answer_out(value: float, place: int) -> None:
    lie = vector(1, 2, 3, 4, 5, 6, 7)
    lie[place] = value
    came = ask(PostBox(with_liar(lambda m: [contribution(m, lie, "Liar")]), nodes=3))

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
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
        archive.writestr("vector.npy", saved(np.ones(7, dtype=np.float32)))
    return buffer.getvalue()


def records(data: bytes, stype: str = "numpy.ndarray", hospital: object = "Liar") -> RecordDict:
    """Records that say float32 of shape (7,), whatever the bytes are."""
    array = Array(dtype="float32", shape=(7,), stype=stype, data=data)
    terms = ConfigRecord({"hospital": hospital})  # type: ignore[dict-item]
    return RecordDict({"arrays": ArrayRecord({"vector": array}), "terms": terms})


def plain(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> RecordDict:
    terms = ConfigRecord({"hospital": "Liar"})
    return RecordDict({"arrays": ArrayRecord({"vector": Array(array)}), "terms": terms})


ONES = saved(np.ones(7, dtype=np.float32))
MALFORMED = {
    "nothing": RecordDict(),
    "no terms": RecordDict({"arrays": ArrayRecord({"vector": Array(np.ones(7))})}),
    "no arrays": RecordDict({"terms": ConfigRecord({"hospital": "Liar"})}),
    "no vector": RecordDict(
        {"arrays": ArrayRecord({"x": Array(np.ones(7))}), "terms": ConfigRecord({"hospital": "L"})}
    ),
    "terms of another kind": RecordDict({"terms": MetricRecord({"hospital": 1})}),
    "double precision": plain(np.ones(7)),
    "whole numbers": plain(np.ones(7, dtype=np.int64)),
    "a matrix": plain(np.ones((2, 3), dtype=np.float32)),
    "a nameless hospital": records(ONES, hospital=3),
    "an endless name": records(ONES, hospital="x" * 20_000),
    "bytes: none": records(b""),
    "bytes: noise": records(b"\x00\xff" * 50),
    "bytes: cut short": records(ONES[:-1]),
    "bytes: pickle": records(b"\x80\x04N."),
    "bytes: a zip": records(zipped()),
    "bytes: half a zip": records(zipped()[:60]),
    "bytes: complex": records(saved(np.full(7, 1j, dtype=np.complex64))),
    "bytes: text": records(saved(np.array(list("abcdef")))),
    "bytes: dates": records(saved(np.zeros(7, dtype="datetime64[s]"))),
    "bytes: double": records(saved(np.ones(7))),
    "bytes: a matrix": records(saved(np.ones((2, 3), dtype=np.float32))),
    "another serialization": records(ONES, stype="torch.tensor"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_answer_harms_no_other(kind: str) -> None:
    came = ask(PostBox(with_liar(lambda m: [Message(MALFORMED[kind], reply_to=m)]), nodes=3))

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
    assert refusal.what


@pytest.mark.parametrize("reason", [None, "", "\n \n", "Traceback ...\nKeyError: 'x'\n"])
def test_an_error_reply_is_a_refusal_with_some_reason(reason: str | None) -> None:
    def broken(message: Message) -> list[Message]:
        return [Message(Error(2, reason), reply_to=message)]

    came = ask(PostBox(with_liar(broken), nodes=3))

    assert_only_honest(came)
    refusal = refusal_of_the_liar(came)
    assert refusal.hospital == "node 2"
    assert refusal.what == ("KeyError: 'x'" if reason and "Key" in reason else refusal.what)
    assert refusal.what.strip()


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_an_answer_that_comes_twice_counts_once(batch: int) -> None:
    came = ask(PostBox(lambda m: honest(m) * 2, nodes=3, batch=batch))

    assert sorted(came.names) == ["hospital-1", "hospital-2", "hospital-3"]
    assert came.heard.silent == []
    assert came.running.total().weight == 6
    assert came.running.total().metrics.tolist() == [3]


def test_an_answer_to_a_question_that_was_not_asked_is_ignored() -> None:
    def forged(message: Message) -> list[Message]:
        stray = honest(message)[0]
        stray.metadata.__dict__["_reply_to_message_id"] = "message-999"
        return [stray, *honest(message)]

    came = ask(PostBox(forged, nodes=2, batch=4))

    assert came.running.total().weight == 3
    assert sorted(came.names) == ["hospital-1", "hospital-2"]


def test_the_deadline_passes_with_a_silent_node() -> None:
    started = time.monotonic()
    came = ask(PostBox(with_liar(lambda _: []), nodes=3), deadline=0.3)
    took = time.monotonic() - started

    assert_only_honest(came)
    assert came.heard.silent == [2]
    assert came.heard.refusals == {}
    assert 0.3 <= took < 5


def test_an_answer_after_the_deadline_is_not_waited_for() -> None:
    class Slow(PostBox):
        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            if time.monotonic() - started < 5:
                return []
            return super().pull_messages(message_ids)

    grid = Slow(honest, nodes=2)
    started = time.monotonic()
    came = ask(grid, deadline=0.2)

    assert time.monotonic() - started < 4
    assert (came.heard.answered, came.heard.silent) == ([], [1, 2])
    assert came.running.total().weight == 0
    assert came.running.total().update.tolist() == [0, 0]


def test_a_node_that_could_not_be_reached_is_silent() -> None:
    class Unreachable(PostBox):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            return super().push_messages(list(messages)[:-1])

    came = ask(Unreachable(honest, nodes=3))

    assert sorted(came.names) == ["hospital-1", "hospital-2"]
    assert came.heard.silent == [3]


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.MESSAGE_UNAVAILABLE,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    ],
)
def test_what_flower_could_not_carry_is_silence_and_no_refusal(code: int) -> None:
    def lost(message: Message) -> list[Message]:
        return [Message(Error(code, "gone"), reply_to=message)]

    came = ask(PostBox(with_liar(lost), nodes=3))

    assert_only_honest(came)
    assert came.heard.silent == [2]
    assert came.heard.refusals == {}


@pytest.mark.parametrize("kind", ["node_unavail", "msg_unavail"])
def test_a_node_that_a_superlink_gave_up_is_silent_once(kind: str) -> None:
    """A SuperLink says so in its own name: as node 1, which is also the first of these."""

    def given_up(message: Message) -> list[Message]:
        reply = create_message_error_unavailable_res_message(message.metadata, kind)
        assert reply.metadata.src_node_id == SUPERLINK_NODE_ID
        return [reply]

    came = ask(PostBox(with_liar(given_up), nodes=3))

    assert_only_honest(came)
    assert came.heard.silent == [2]
    assert came.heard.refusals == {}


def test_a_reply_in_the_name_of_another_node_is_that_of_the_node_that_was_asked() -> None:
    def forged(message: Message) -> list[Message]:
        (reply,) = honest(message)
        reply.metadata.__dict__["_src_node_id"] = 3
        return [reply]

    came = ask(PostBox(with_liar(forged), nodes=3))

    assert sorted(came.nodes) == [1, 2, 3]
    assert came.heard.silent == []


def test_contributions_have_names() -> None:
    answer = Contribution("Saint Mary's", vector(1, 1, 1, 0, 0, 0, 1))
    grid = PostBox(lambda m: [Message(pack_answer(answer), reply_to=m)], nodes=1)

    assert ask(grid).names == ["Saint Mary's"]
