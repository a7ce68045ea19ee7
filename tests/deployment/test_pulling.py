"""Replies from a real SuperLink: whole ones at once, and nobody waits for another's last object."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.fleet import FleetConnection
from fedward.client.letter import Letter, reply_to
from fedward.server.pulling import Pulling
from fedward.study.messages import ADVERTISE, Advertised, AdvertiseQuery
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


def answered(letter: Letter, name: str) -> Letter:
    return reply_to(letter, pack_answer(Advertised(name, b"advert")))


def test_a_reply_without_its_root_holds_nobody_up(
    server: ServerSide, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
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
    with closing(Pulling(server.grid)) as pulling:
        began = time.monotonic()
        first = [unpack_answer(reply.content) for reply in pulling.replies(asked)]
        passed = time.monotonic() - began
        push(*held[0])
        second = [unpack_answer(reply.content) for reply in pulling.replies(asked[:1])]

    assert [answer.hospital for answer in first] == ["quick"]
    assert [answer.hospital for answer in second] == ["slow"]
    assert passed < 1.0  # Flower's own backoff


def test_a_stock_node_that_sends_the_root_first_is_waited_for(
    server: ServerSide, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
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
    with closing(Pulling(server.grid)) as pulling:
        found = [unpack_answer(reply.content) for reply in pulling.replies(asked)]
    sender.join()

    assert [answer.hospital for answer in found] == ["stock"]
