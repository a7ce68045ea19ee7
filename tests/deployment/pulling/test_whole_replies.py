"""Replies from a real SuperLink: whole ones at once, and nobody waits for another's last object."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.common.constant import ErrorCode

from fedward.client.fleet_errors import MessageRefused
from fedward.client.letter import Letter, reply_to
from fedward.server.pulling import TOO_LARGE, Pulling
from fedward.server.quick_grid import QuickGrid
from fedward.study.messages import ADVERTISE, Advertised
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


# --- Hospitals that stop in the middle ------------------------------------------------------------

QUIET = 2.0  # seconds
VECTOR = np.arange(2048, dtype=np.float32)


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
