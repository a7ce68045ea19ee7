"""Hospitals that send something else: each is refused alone, and nothing of it is kept."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pytest
from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree

from fedward.client.fleet_errors import FleetError
from fedward.client.letter import Letter
from fedward.server.exchange import Heard, exchange
from fedward.server.pulling import Pulling, ReplyTooLarge, Room, _Quick
from fedward.server.quick_grid import QuickGrid
from fedward.study.messages import ADVERTISE
from fedward.study.wire import unpack_answer
from tests.deployment.pulling.hospital_line import (
    QUERY,
    Line,
    answered,
    is_forgotten,
    large,
    until_one,
)
from tests.superlink_ward import ServerSide, until

pytestmark = pytest.mark.slow


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
