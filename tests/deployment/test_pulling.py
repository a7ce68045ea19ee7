"""Replies from a real SuperLink: whole ones at once, and nobody waits for another's last object."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest

from fedward.client.fleet import FleetConnection
from fedward.client.fleet_errors import FleetError, MessageRefused
from fedward.client.letter import Letter, reply_to
from fedward.server.exchange import Heard, exchange
from fedward.server.pulling import TOO_LARGE, Pulling, ReplyTooLarge, Room, _Quick
from fedward.server.quick_grid import QuickGrid, quick
from fedward.study.messages import (
    ADVERTISE,
    TRAIN,
    Advertised,
    AdvertiseQuery,
    Contribution,
    TrainRequest,
)
from fedward.study.wire import pack_answer, pack_request, unpack_answer
from tests.superlink_ward import ServerSide, Ward, until

pytestmark = pytest.mark.slow
QUERY = pack_request(AdvertiseQuery("digest", "run"))


class Line:
    """A hospital's line, whose reply can be held back in the middle."""

    def __init__(self, ward: Ward) -> None:
        key = ec.generate_private_key(ec.SECP384R1())
        self.node = ward.register(key)
        self.fleet = FleetConnection(ward.address, ward.authority.pem, key)
        self.fleet.activate()

    def receive(self) -> Letter:
        got: list[Letter] = []

        def there() -> bool:
            letter = self.fleet.receive()
            got.extend([] if letter is None else [letter])
            return bool(got)

        until(there)
        return got[0]


@pytest.fixture
def lines(ward: Ward) -> Iterator[tuple[Line, Line]]:
    pair = Line(ward), Line(ward)
    yield pair
    for line in pair:
        line.fleet.close()


@pytest.fixture
def grid(server: ServerSide) -> Iterator[QuickGrid]:
    """The server's line made quick, for one run."""
    with quick(server.grid) as made:
        assert isinstance(made, QuickGrid)
        yield made


def answered(letter: Letter, name: str) -> Letter:
    return reply_to(letter, pack_answer(Advertised(name, b"advert")))


def test_a_reply_without_its_root_holds_nobody_up(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, quick = lines
    asked = server.give(QUERY, ADVERTISE, [slow.node, quick.node])
    held, letter = [], answered(slow.receive(), "slow")
    push = slow.fleet._stored

    def hold_the_root(whole: Letter, name: str, session: str) -> bool:
        if name != letter.digest:
            return push(whole, name, session)
        held.append((whole, name, session))
        return True

    monkeypatch.setattr(slow.fleet, "_stored", hold_the_root)
    slow.fleet.send(letter)
    quick.fleet.send(answered(quick.receive(), "quick"))
    pulling = Pulling(grid)
    began = time.monotonic()
    first = [unpack_answer(reply.content) for reply in pulling.replies(asked)]
    passed = time.monotonic() - began
    push(*held[0])
    second = [unpack_answer(reply.content) for reply in pulling.replies(asked[:1])]

    assert [answer.hospital for answer in first] == ["quick"]
    assert [answer.hospital for answer in second] == ["slow"]
    assert passed < 1.0  # Flower's own backoff


def test_a_stock_node_that_sends_the_root_first_is_waited_for(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = lines[0]
    asked = server.give(QUERY, ADVERTISE, [line.node])
    letter = answered(line.receive(), "stock")
    push, later = line.fleet._stored, list[tuple[Letter, str, str]]()

    def keep_the_rest(whole: Letter, name: str, session: str) -> bool:
        if name == letter.digest:
            return push(whole, name, session)
        later.append((whole, name, session))
        return True

    monkeypatch.setattr(line.fleet, "_stored", keep_the_rest)
    line.fleet.send(letter)
    sender = threading.Timer(0.3, lambda: [push(*one) for one in later])
    sender.start()
    pulling = Pulling(grid)
    assert list(pulling.replies(asked)) == []
    found = unpack_answer(until_one(pulling, asked).content)
    sender.join()

    assert isinstance(found, Advertised)
    assert found.hospital == "stock"


def test_an_answer_that_came_too_late_is_told_as_such(
    server: ServerSide, lines: tuple[Line, Line]
) -> None:
    line = lines[0]
    server.give(QUERY, ADVERTISE, [line.node], ttl=2.0)
    letter = answered(line.receive(), "late")
    time.sleep(2.1)

    with pytest.raises(MessageRefused, match="too late"):
        line.fleet.send(letter)


# --- Short messages inside their announcements ----------------------------------------------------


def asked_over(grid: QuickGrid, lines: Iterable[Line], *, deadline: float = 30.0) -> Heard:
    """One exchange, in which these hospitals answer."""
    senders = [
        threading.Thread(target=lambda line=line: line.fleet.send(answered(line.receive(), "x")))
        for line in lines
    ]
    for sender in senders:
        sender.start()
    nodes = {line.node: QUERY for line in lines}
    heard = exchange(grid, nodes, ADVERTISE, lambda *_: None, group="1", deadline=deadline)
    for sender in senders:
        sender.join()
    return heard


def test_who_answers_inside_an_announcement_is_asked_so(
    grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()
    call, fetch = FleetConnection._call, _Quick._has

    def noted(line: FleetConnection, path: str, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        asked.append(path)
        return call(line, path, *rest, **more)

    def fetched(quick: _Quick, *rest: Any) -> bool:  # noqa: ANN401
        asked.append("fetched")
        return fetch(quick, *rest)

    monkeypatch.setattr(FleetConnection, "_call", noted)
    monkeypatch.setattr(_Quick, "_has", fetched)
    seen = []
    for _ in range(3):
        asked.clear()
        heard = asked_over(grid, lines)
        assert sorted(heard.answered) == sorted(line.node for line in lines)
        until(lambda: asked.count("push-object") >= 2)  # a root each, which nobody waits for
        seen.append({kind: asked.count(kind) for kind in ("pull-object", "push-object", "fetched")})

    assert seen[0]["pull-object"] >= 6  # the first question is one that everybody understands
    assert seen[1] == seen[2] == {"pull-object": 0, "push-object": 2, "fetched": 0}


def test_a_root_that_comes_late_leaves_nothing_behind(
    grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a long line: the answer is read before its root has come."""
    line, stored = lines[0], list[bool]()
    push = FleetConnection._stored

    def late(fleet: FleetConnection, letter: Letter, name: str, session: str) -> bool:
        time.sleep(0.3)
        stored.append(push(fleet, letter, name, session))
        return stored[-1]

    monkeypatch.setattr(FleetConnection, "_stored", late)
    for _ in range(3):
        assert asked_over(grid, [line]).answered == [line.node]
        time.sleep(0.2)  # over such a line nothing follows at once
    until(lambda: len(stored) == 3)  # a root each

    assert all(stored)
    assert list(grid.push_messages([])) == []


def test_nothing_is_on_its_way_when_the_line_is_given_back(
    server: ServerSide, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower closes it next; what still read from it would read from the next connection."""
    line, begun, go_on, ended = lines[0], threading.Event(), threading.Event(), threading.Event()
    confirm = QuickGrid.confirm

    def slowly(quick_grid: QuickGrid, name: str) -> None:
        begun.set()
        go_on.wait(30)
        confirm(quick_grid, name)
        ended.set()

    monkeypatch.setattr(QuickGrid, "confirm", slowly)
    with quick(server.grid) as grid:
        assert isinstance(grid, QuickGrid)
        for _ in range(3):  # the first answer is confirmed with the third question
            assert asked_over(grid, [line]).answered == [line.node]
        assert begun.wait(30)
        threading.Timer(0.5, go_on.set).start()
        assert not ended.is_set()
    assert ended.is_set()


def test_readers_and_others_are_asked_together(grid: QuickGrid, lines: tuple[Line, Line]) -> None:
    reader, other = lines
    assert asked_over(grid, [reader]).answered == [reader.node]
    assert sorted(asked_over(grid, lines).answered) == sorted([reader.node, other.node])
    assert grid._readers == {reader.node, other.node}


def test_a_node_that_was_silent_is_asked_with_objects_again(
    grid: QuickGrid, lines: tuple[Line, Line]
) -> None:
    line = lines[0]
    assert asked_over(grid, [line]).answered == [line.node]
    assert line.node in grid._readers
    heard = exchange(grid, {line.node: QUERY}, ADVERTISE, lambda *_: None, group="1", deadline=1.0)

    assert heard.silent == [line.node]
    assert line.node not in grid._readers
    assert asked_over(grid, [line]).answered == [line.node]


def test_an_announcement_larger_than_any_answer_is_that_hospital_s_refusal_alone(
    grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    liar, honest = lines
    monkeypatch.setattr("fedward.client.letter.SHORT_MESSAGE", 1 << 30)

    def lie() -> None:
        content = RecordDict({"terms": ConfigRecord({"hospital": "x" * (4 << 20)})})
        liar.fleet.send(reply_to(liar.receive(), content))

    sender = threading.Thread(target=lie)
    sender.start()
    other = threading.Thread(target=lambda: honest.fleet.send(answered(honest.receive(), "h")))
    other.start()
    nodes = {liar.node: QUERY, honest.node: QUERY}
    heard = exchange(grid, nodes, ADVERTISE, lambda *_: None, group="1", deadline=30.0)
    sender.join()
    other.join()

    assert heard.answered == [honest.node]
    assert heard.refusals[liar.node].error == "ReplyTooLarge"


def test_a_long_message_goes_as_objects(grid: QuickGrid, lines: tuple[Line, Line]) -> None:
    line = lines[0]
    model = np.arange(100_000, dtype=np.float32)
    question = pack_request(TrainRequest("d" * 64, "run", 1, model))
    got: list[Letter] = []

    def answer() -> None:
        got.append(line.receive())
        line.fleet.send(reply_to(got[0], pack_answer(Contribution("x", model))))

    sender = threading.Thread(target=answer)
    sender.start()
    came: list[Any] = []
    heard = exchange(
        grid,
        {line.node: question},
        TRAIN,
        lambda _, answer: came.append(answer),
        group="1",
        size=len(model),
        deadline=30.0,
    )
    sender.join()

    assert heard.answered == [line.node]
    assert (came[0].vector == model).all()
    assert got[0].model == hashlib.sha256(model.tobytes()).hexdigest()
    assert line.node not in grid._readers


# --- Hospitals that send something else -----------------------------------------------------------


def of(letter: Letter, content: bytes) -> Letter:
    """A reply to a letter, whose only object has this content."""
    name = hashlib.sha256(content).hexdigest()
    head = MessageProto.FromString(answered(letter, "liar").head)
    head.metadata.message_id = name
    tree = ObjectTree(object_id=name)
    made = Letter(head.SerializeToString(), tree.SerializeToString(), {name: content})
    made.__dict__["run"] = letter.run  # it cannot be read there
    return made


@pytest.mark.parametrize(
    "content",
    [b"Message  4\0junk", b"RecordDict  2\0{}", b"Message " + b"0" * 64 + b" 0\0", b"Message  0\0"],
    ids=["junk", "something else", "a part that is not there", "nothing"],
)
def test_what_is_no_message_is_that_hospital_s_refusal_and_harms_no_other(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line], content: bytes
) -> None:
    liar, honest = lines
    asked = server.give(QUERY, ADVERTISE, [liar.node, honest.node])
    liar.fleet.send(of(liar.receive(), content))
    honest.fleet.send(answered(honest.receive(), "honest"))
    pulling = Pulling(grid)
    found = {reply.metadata.reply_to_message_id: reply for reply in pulling.replies(asked)}

    assert found.keys() == set(asked)
    refused = found[asked[0]]
    assert refused.has_error()
    assert refused.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "no answer to the question" in str(refused.error.reason)
    assert unpack_answer(found[asked[1]].content).hospital == "honest"


def large(letter: Letter, monkeypatch: pytest.MonkeyPatch, *, size: int, piece: int) -> Letter:
    """An answer with an array of so many bytes, in pieces of so many."""
    name = "flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
    with monkeypatch.context() as patched:
        patched.setattr(name, piece)
        arrays = ArrayRecord(
            {"vector": Array(np.random.default_rng(1).integers(0, 256, size, np.uint8))}
        )
        return reply_to(letter, RecordDict({"terms": ConfigRecord({"n": 1}), "arrays": arrays}))


@pytest.mark.parametrize(
    ("size", "piece", "words"),
    [(4096, 16, "objects, where"), (4 << 20, 1 << 20, "more than the [0-9]+ bytes")],
    ids=["too many objects", "too many bytes"],
)
def test_a_reply_larger_than_any_honest_one_is_that_hospital_s_refusal_alone(
    server: ServerSide,
    grid: QuickGrid,
    lines: tuple[Line, Line],
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    piece: int,
    words: str,
) -> None:
    liar, honest = lines
    pulled: list[str] = []
    fetch = _Quick._has

    def counted(quick: _Quick, coming: Any, name: str) -> bool:  # noqa: ANN401
        pulled.append(name)
        return fetch(quick, coming, name)

    monkeypatch.setattr(_Quick, "_has", counted)
    announced: list[Letter] = []

    def answer() -> None:
        announced.append(large(liar.receive(), monkeypatch, size=size, piece=piece))
        with suppress(FleetError):  # it may be refused before all of it was sent
            liar.fleet.send(announced[0])
        honest.fleet.send(answered(honest.receive(), "honest"))

    sender = threading.Thread(target=answer)
    sender.start()
    heard = exchange(
        grid,
        {liar.node: QUERY, honest.node: QUERY},
        ADVERTISE,
        lambda node, answer: None,
        group="1",
        deadline=30.0,
    )
    sender.join()

    assert heard.answered == [honest.node]
    assert heard.silent == []
    refusal = heard.refusals[liar.node]
    assert refusal.error == "ReplyTooLarge"
    assert re.search(words, refusal.what)
    if words.startswith("objects"):  # nothing of it was fetched
        assert not set(pulled) & set(announced[0].objects)
    until(lambda: all(is_forgotten(server, name) for name in announced[0].objects))


def test_a_question_that_nobody_fetched_is_forgotten_with_its_round(
    server: ServerSide,
    grid: QuickGrid,
    lines: tuple[Line, Line],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the SuperLink keeps a model for each round that a hospital missed."""
    silent, honest = lines
    asked: list[str] = []
    push = grid.push_messages

    def noted(messages: Iterable[Message]) -> list[str]:
        names = list(push(messages))
        asked.extend(names)
        return names

    monkeypatch.setattr(grid, "push_messages", noted)

    def ask() -> Heard:
        begin = threading.Thread(
            target=lambda: honest.fleet.send(answered(honest.receive(), "honest"))
        )
        begin.start()
        nodes = {silent.node: QUERY, honest.node: QUERY}
        heard = exchange(
            *(grid, nodes, ADVERTISE, lambda node, answer: None), group="1", deadline=3.0
        )
        begin.join()
        return heard

    for _ in range(3):  # the next has the same content, and so the same objects
        heard = ask()
        assert (heard.answered, heard.silent) == ([honest.node], [silent.node])
    assert len(set(asked)) == 6
    # Who reads its question from the announcement confirms it when the next one comes.
    until(lambda: all(is_forgotten(server, name) for name in asked[:-1]))
    assert silent.fleet.receive() is None  # it is not told of what is over


def is_forgotten(server: ServerSide, name: str) -> bool:
    """Whether the SuperLink holds no such object any more."""
    asked = PullObjectRequest(node=server.grid.node, run_id=server.run, object_id=name)
    return not server._client.PullObject(asked).object_found


def test_every_answer_of_a_study_finds_room() -> None:
    for size, hospitals in ((0, 1), (4, 3), (10**9, 3), (4 * 10**10, 1000)):
        room = Room.of(size, hospitals)
        pieces = -(-size // (5 << 20))  # of a stock SuperNode
        room.refuse(objects=pieces + 5, size=size + pieces * 80 + hospitals * 2 * (4096 + 400))
        with pytest.raises(ReplyTooLarge):
            room.refuse(objects=room.objects + 1)
        with pytest.raises(ReplyTooLarge):
            room.refuse(size=room.bytes + 1)
        assert room.bytes < 1.01 * size + (2 << 20) + hospitals * (32 << 10)


def test_nobody_answers_in_another_s_place(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line]
) -> None:
    liar, honest = lines
    asked = server.give(QUERY, ADVERTISE, [liar.node, honest.node])
    own, foreign = liar.receive(), honest.receive()
    forged = answered(foreign, "honest")
    head = MessageProto.FromString(answered(own, "liar").head)
    head.metadata.message_id = forged.digest
    liar.fleet.send(Letter(head.SerializeToString(), forged.tree, forged.objects))
    pulling = Pulling(grid)
    reply = until_one(pulling, asked)

    assert reply.metadata.reply_to_message_id == asked[0]
    assert reply.has_error()


# --- Hospitals that stop in the middle ------------------------------------------------------------

QUIET = 2.0  # seconds
VECTOR = np.arange(2048, dtype=np.float32)


def until_one(pulling: Pulling, asked: list[str], *, seconds: float = 30.0) -> Message:
    """The next reply, whenever it comes."""
    got: list[Message] = []

    def there() -> bool:
        got.extend(pulling.replies(asked))
        return bool(got)

    until(there, seconds=seconds)
    assert len(got) == 1
    return got[0]


def many(letter: Letter, monkeypatch: pytest.MonkeyPatch) -> Letter:
    """An answer of more than ten objects."""
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 1024)
    arrays = ArrayRecord({"vector": Array(VECTOR)})
    return reply_to(letter, RecordDict({"terms": ConfigRecord({"n": 1}), "arrays": arrays}))


def hold(line: Line, monkeypatch: pytest.MonkeyPatch, letter: Letter) -> list[Callable[[], bool]]:
    """Announce an answer and send nothing of it yet: each call sends one object, in order."""
    push, held = line.fleet._stored, list[Callable[[], bool]]()

    def later(whole: Letter, name: str, session: str) -> bool:
        held.append(partial(push, whole, name, session))
        return True

    with monkeypatch.context() as patched:
        patched.setattr(line.fleet, "_stored", later)
        patched.setattr(line.fleet, "_each", lambda work, names: [work(name) for name in names])
        line.fleet.send(letter)
    return held


@pytest.mark.parametrize("last", ["root", "leaf"])
def test_a_hospital_killed_amid_its_upload_holds_nobody_up_and_is_given_up(
    server: ServerSide,
    grid: QuickGrid,
    lines: tuple[Line, Line],
    monkeypatch: pytest.MonkeyPatch,
    last: str,
) -> None:
    dead, quick = lines
    asked = server.give(QUERY, ADVERTISE, [dead.node, quick.node])
    held = hold(dead, monkeypatch, many(dead.receive(), monkeypatch))
    sent = held[: len(held) // 2] if last == "root" else held[1:]
    assert all(send() for send in sent)
    quick.fleet.send(answered(quick.receive(), "quick"))

    pulling = Pulling(grid, quiet=QUIET)
    began = time.monotonic()
    first = list(pulling.replies(asked))
    soon = time.monotonic() - began
    lost = until_one(pulling, asked[:1])
    passed = time.monotonic() - began

    assert [unpack_answer(reply.content).hospital for reply in first] == ["quick"]
    assert soon < QUIET / 2
    assert lost.metadata.reply_to_message_id == asked[0]
    assert lost.error.code == ErrorCode.MESSAGE_UNAVAILABLE
    assert QUIET <= passed < 3 * QUIET


def test_a_liar_that_holds_the_root_back_is_refused_for_its_size(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    liar = lines[0]
    asked = server.give(QUERY, ADVERTISE, [liar.node])
    letter = large(liar.receive(), monkeypatch, size=4 << 20, piece=1 << 20)
    held = hold(liar, monkeypatch, letter)
    assert all(send() for send in held[:-1])

    pulling = Pulling(grid, quiet=QUIET)
    refused = until_one(pulling, asked)

    assert refused.error.code == TOO_LARGE
    until(lambda: all(is_forgotten(server, name) for name in letter.objects))


def test_a_slow_hospital_is_waited_for_as_long_as_something_comes(
    server: ServerSide, grid: QuickGrid, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = lines[0]
    asked = server.give(QUERY, ADVERTISE, [line.node])
    held = hold(line, monkeypatch, many(line.receive(), monkeypatch))

    def slowly() -> None:
        for send in held:
            time.sleep(QUIET / 4)
            send()

    sender = threading.Thread(target=slowly)
    pulling = Pulling(grid, quiet=QUIET)
    sender.start()
    began = time.monotonic()
    reply = until_one(pulling, asked)
    passed = time.monotonic() - began
    sender.join()

    assert reply.has_content()
    np.testing.assert_array_equal(reply.content.array_records["arrays"]["vector"].numpy(), VECTOR)
    assert passed > QUIET


def test_a_slow_line_has_time_for_the_objects_on_their_way(grid: QuickGrid) -> None:
    small = Pulling(grid, size=4_000_000)
    assert small._quick is not None
    assert small._quick._quiet == 30 + 32  # a megabit a second
    small = Pulling(grid)
    assert small._quick is not None
    assert small._quick._quiet > 30 + 10  # of the hospital's own patience with a silent line
    large = Pulling(grid, size=10**9)
    assert large._quick is not None
    assert large._quick._quiet < 300
