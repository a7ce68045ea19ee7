"""Short messages inside their announcements, and long ones as objects."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fedward.client.fleet import FleetConnection
from fedward.client.letter import Letter, reply_to
from fedward.server.exchange import Heard, exchange
from fedward.server.pulling import _Quick
from fedward.server.quick_grid import QuickGrid, quick
from fedward.study.messages import ADVERTISE, TRAIN, Contribution, TrainRequest
from fedward.study.wire import pack_answer, pack_request
from tests.deployment.pulling.hospital_line import QUERY, Line, answered
from tests.superlink_ward import ServerSide, until

pytestmark = pytest.mark.slow


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
