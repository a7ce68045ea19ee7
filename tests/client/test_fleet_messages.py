"""How a hospital's line fetches messages and sends answers, and when it gives them up."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict
from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PushObjectResponse
from flwr.proto.node_pb2 import Node

from fedward.client import fleet
from fedward.client.fleet import FleetConnection
from fedward.client.fleet_errors import ConnectionLost, MessageRefused, ServerFault, ServerTrouble
from fedward.client.letter import Letter, from_announcement, names_in, reply_to, with_content
from fedward.client.messages_under_way import Coming, Faults
from fedward.study.messages import Masked, MaskedContribution
from fedward.study.wire import pack_answer
from tests.client.answering import AUTHORITY, KEY, answering, saying
from tests.client.test_daemon import letter


class Handing(FleetConnection):
    """A line at which one message waits."""

    def __init__(self, waiting: Letter) -> None:
        super().__init__("127.0.0.1:1", AUTHORITY.pem, KEY)
        self._waiting, self._announced = waiting, False

    def _call(self, path: str, asked: Any, kind: Any, **_: Any) -> Any:  # noqa: ANN401
        if path == "pull-object":
            content = self._waiting.objects[asked.object_id]
            return kind(object_found=True, object_available=True, object_content=content)
        if path != "pull-messages" or self._announced:
            return kind()
        self._announced = True
        head, tree = (
            MessageProto.FromString(self._waiting.head),
            ObjectTree.FromString(self._waiting.tree),
        )
        return kind(messages_list=[head], message_object_trees=[tree])


def test_a_message_comes_whole() -> None:
    line = Handing(letter())

    assert line.receive() == letter()
    assert line.receive() is None
    line.close()


def test_a_message_whose_head_lies_is_refused_once() -> None:
    head = MessageProto.FromString(letter().head)
    head.metadata.message_type = "nonsense.x.y"
    line = Handing(Letter(head.SerializeToString(), letter().tree, letter().objects))

    with pytest.raises(MessageRefused, match="not what it says"):
        line.receive()
    assert line.receive() is None
    line.close()


class Late(Handing):
    """A line at which a message is announced long before its parts are there."""

    def __init__(self, waiting: Letter, after: float) -> None:
        super().__init__(waiting)
        self.asked, self._after = 0, after

    def _call(self, path: str, asked: Any, kind: Any, **settings: Any) -> Any:  # noqa: ANN401
        if path == "pull-object":
            self.asked += 1
            if self.asked <= self._after:
                return kind(object_found=True)
        return super()._call(path, asked, kind, **settings)


def test_parts_that_come_late_are_waited_for() -> None:
    parts = len(letter().objects)
    line = Late(letter(), after=4 * parts)

    assert line.receive() == letter()
    assert line.asked <= 5 * parts
    line.close()


def test_parts_that_never_come_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_PATIENCE", 0.2)
    line = Late(letter(), after=math.inf)

    with pytest.raises(MessageRefused, match="without all of its parts"):
        line.receive()
    line.close()


def test_one_part_that_comes_lets_the_others_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would wait a minute by itself."""
    monkeypatch.setattr(fleet, "_LEAST_PAUSE", 60.0)
    monkeypatch.setattr(fleet, "_LONGEST_PAUSE", 60.0)
    line, began = Late(letter(), after=len(letter().objects) - 1), time.monotonic()

    assert line.receive() == letter()
    assert time.monotonic() - began < 30
    line.close()


class Announcing(FleetConnection):
    """A line at which messages wait inside announcements; it keeps what is asked over it."""

    def __init__(self, *waiting: MessageProto, cut: int = 0) -> None:
        super().__init__("127.0.0.1:1", AUTHORITY.pem, KEY)
        self.asked: list[tuple[str, Any]] = []
        self._waiting = list(waiting)
        self._cut = cut  # after so many answers, which came

    def _call(self, path: str, asked: Any, kind: Any, **_: Any) -> Any:  # noqa: ANN401
        self.asked.append((path, asked))
        if path == "pull-messages" and self._waiting:
            head = self._waiting.pop(0)
            tree = ObjectTree(object_id=head.metadata.message_id)
            return kind(messages_list=[head], message_object_trees=[tree])
        if path == "push-messages":
            if self._cut:
                self._cut -= 1
                raise ConnectionLost("cut")
            known = [each for each, _ in self.asked].count("push-messages") > 1
            names = [] if known else names_in(asked.message_object_trees[0])
            return PushMessagesResponse(objects_to_push=names, session_id="s")
        return kind(stored=True) if path == "push-object" else kind()

    def over(self) -> list[str]:
        """What was asked, once nothing is under way."""
        self._lines.shutdown(wait=True)
        return [path for path, _ in self.asked]


def test_what_was_asked_inside_an_announcement_is_answered_so() -> None:
    line = Announcing(with_content(letter()))
    question = line.receive()
    assert question == letter()
    answer = reply_to(question, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    line.send(answer)

    assert line.over() == ["pull-messages", "push-messages", "push-object"]
    pushed = line.asked[1][1]
    assert from_announcement(pushed.messages_list[0]) == answer
    assert [tree.object_id for tree in pushed.message_object_trees] == [answer.digest]
    assert line.asked[2][1].object_id == answer.digest


def test_what_came_inside_an_announcement_is_confirmed_with_the_next() -> None:
    """Its root comes after it; a SuperLink that has forgotten it by then never closes its books."""
    forged = with_content(letter(2))
    forged.content.items.add(key="more")
    line = Announcing(with_content(letter(1)), forged, with_content(letter(3)))
    line.receive()
    assert "confirm-message-received" not in [path for path, _ in line.asked]
    with pytest.raises(MessageRefused, match="not what it says"):
        line.receive()
    assert line.receive() == letter(3)

    line.over()
    confirmed = [asked for path, asked in line.asked if path == "confirm-message-received"]
    assert {asked.message_object_id for asked in confirmed} == {
        letter(1).digest,
        letter(2).digest,
    }
    assert {asked.run_id for asked in confirmed} == {letter().run}


def test_an_answer_inside_an_announcement_that_was_cut_off_is_sent_again() -> None:
    """The aggregator may have it already, and then lacks nothing."""
    line = Announcing(with_content(letter()), cut=1)
    question = line.receive()
    assert question is not None
    answer = reply_to(question, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    with pytest.raises(ConnectionLost):
        line.send(answer)
    line.send(answer)

    assert line.over()[1:] == ["push-messages", "push-messages"]


@pytest.mark.parametrize("values", [20_000, 50_000], ids=["short", "long"])
def test_an_answer_with_an_array_beside_its_table_goes_as_objects(values: int) -> None:
    line = Announcing(with_content(letter()))
    question = line.receive()
    assert question is not None
    words = np.arange(values, dtype="<u4")
    masked = Masked(words, {"south": b"share"}, b"c" * 32)
    answer = reply_to(question, pack_answer(MaskedContribution("north", masked)))
    line.send(answer)

    line.over()
    pushed = next(asked for path, asked in line.asked if path == "push-messages")
    assert bool(pushed.messages_list[0].content.items) == (values == 20_000)
    assert len(names_in(pushed.message_object_trees[0])) == (1 if values == 20_000 else 6)


def test_an_answer_to_a_question_of_objects_goes_as_objects() -> None:
    line = Announcing(with_content(letter()))
    line.receive()
    other = letter(2)
    answer = reply_to(other, RecordDict({"terms": ConfigRecord({"hospital": "north"})}))
    line.send(answer)

    assert line.over().count("push-object") == len(answer.objects)
    pushed = next(asked for path, asked in line.asked if path == "push-messages")
    assert not pushed.messages_list[0].content.items
    assert pushed.message_object_trees[0] == ObjectTree.FromString(answer.tree)


def test_an_answer_that_was_cut_off_is_sent_to_its_last_object(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower names what it lacks once; told again, it says that it lacks nothing."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY)
    answer = letter()
    had: set[str] = set()
    said = list(answer.objects)

    def call(path: str, asked: Any, kind: Any, **_: int) -> Any:  # noqa: ANN401
        if path == "push-messages":
            lacks = said[:]
            said.clear()
            return PushMessagesResponse(objects_to_push=lacks, session_id="s" if lacks else "t")
        if asked.object_id == answer.digest and asked.session_id == "s":
            raise ConnectionLost("cut")
        assert asked.session_id in {"s", ""}
        had.add(asked.object_id)
        return PushObjectResponse(stored=True)

    monkeypatch.setattr(line, "_call", call)
    with pytest.raises(ConnectionLost):
        line.send(answer)
    assert answer.digest not in had
    line.send(answer)
    assert had == set(answer.objects)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def failing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FleetConnection:
    """A line whose aggregator fails at every request about a message."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY, clock=clock)
    line._node = Node(node_id=7)

    def call(path: str, *_: Any, **__: Any) -> Any:  # noqa: ANN401
        raise ServerFault("it answers with HTTP 500")

    monkeypatch.setattr(line, "_call", call)
    return line


def test_an_answer_at_which_the_aggregator_fails_for_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    line = failing(clock, monkeypatch)
    first, second = letter(), letter(2, RecordDict({"another": ConfigRecord({"a": 1})}))

    for answer in (first, second):  # each has its own time
        for passed in (0, 1, 2, 4, 8, 16, 28.9):
            clock.now += passed
            with pytest.raises(ServerFault):
                line.send(answer)
        clock.now += 0.2
        with pytest.raises(MessageRefused, match="failed 8 times in 60 s") as error:
            line.send(answer)
        assert "\n" not in error.value.line()
    line.close()


def test_few_failures_are_no_reason_however_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is tried again seldom meets few of them in a minute."""
    clock = Clock()
    line = failing(clock, monkeypatch)
    for _ in range(4):
        with pytest.raises(ServerFault):
            line.send(letter())
        clock.now += 3600
    with pytest.raises(MessageRefused, match="failed 5 times"):
        line.send(letter())
    line.close()


def test_an_aggregator_that_lost_its_state_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It knows a hospital by a new number, and none of the old messages."""
    line = failing(Clock(), monkeypatch)
    with pytest.raises(ServerFault):
        line.send(letter())
    line._node = Node(node_id=8)

    with pytest.raises(MessageRefused, match="lost its state"):
        line.send(letter())
    line.close()


def test_a_message_at_which_the_aggregator_fails_for_long_is_given_up() -> None:
    class Failing(Handing):
        def _call(self, path: str, *asked: Any, **options: Any) -> Any:  # noqa: ANN401
            if path == "pull-object":
                raise ServerFault("it answers with HTTP 500")
            return super()._call(path, *asked, **options)

    line = Failing(letter())
    line._clock = clock = Clock()
    for _ in range(10):
        with pytest.raises(ServerFault):
            line.receive()
    clock.now += 61
    with pytest.raises(MessageRefused, match="failed 11 times in 61 s"):
        line.receive()
    assert line.receive() is None
    line.close()


@pytest.mark.parametrize("lasts", [600.0, float("nan"), -1.0])
def test_a_message_whose_time_is_over_before_it_came_is_given_up(lasts: float) -> None:
    class Failing(Handing):
        def _call(self, path: str, *asked: Any, **options: Any) -> Any:  # noqa: ANN401
            if path == "pull-object":
                raise ServerTrouble("it answers with HTTP 503")
            return super()._call(path, *asked, **options)

    line = Failing(letter(lasts=lasts))
    line._clock = clock = Clock()
    for _ in range(10 if lasts > 0 else 0):
        with pytest.raises(ServerTrouble):
            line.receive()
        clock.now += 59.9
    clock.now += 2
    with pytest.raises(MessageRefused, match="before its time was over") as error:
        line.receive()
    assert "\n" not in error.value.line()
    assert line.receive() is None
    line.close()


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_for_work_that_is_refused_is_trouble_of_the_line(
    tmp_path: Path, status: int
) -> None:
    with answering(tmp_path, saying(status)) as address:
        line = FleetConnection(address, AUTHORITY.pem, KEY)
        with pytest.raises(ServerTrouble, match=f"HTTP {status}"):  # after which a pause is made
            line.receive()
        line.close()


def test_an_answer_that_is_not_taken_is_not_called_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower says that it lacks nothing of an answer that came too late: it has forgotten all."""
    line = FleetConnection("127.0.0.1:1", AUTHORITY.pem, KEY)
    asked = list[str]()

    def call(path: str, _asked: Any, _kind: Any, **_: int) -> Any:  # noqa: ANN401
        asked.append(path)
        return PushMessagesResponse(session_id="s")

    monkeypatch.setattr(line, "_call", call)
    with pytest.raises(MessageRefused, match="too late"):
        line.send(letter())
    assert asked == ["push-messages"]
    line.close()


def test_the_parts_of_a_message_are_fetched_in_the_order_in_which_they_come() -> None:
    """Who asks for the root first waits until everything is there, and has it all to fetch then."""
    names = ["chunk 1", "chunk 2", "array", "terms", "message"]
    chunks = [ObjectTree(object_id=name) for name in names[:2]]
    array = ObjectTree(object_id="array", children=chunks)
    tree = ObjectTree(object_id="message", children=[array, ObjectTree(object_id="terms")])

    coming = Coming(1, b"", tree.SerializeToString(), names_in(tree), Faults(0))

    assert coming.missing() == names
