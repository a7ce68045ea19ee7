"""Replies from a real SuperLink: whole ones at once, and nobody waits for another's last object."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree

from fedward.client.fleet import FleetConnection
from fedward.client.letter import Letter, reply_to
from fedward.server.pulling import Pulling, _Quick
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


@pytest.fixture(autouse=True)
def last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody waits for has ended before the test closes its line to the SuperLink."""
    monkeypatch.setattr(_Quick, "close", lambda quick: quick._lines.shutdown(wait=True))


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
        assert list(pulling.replies(asked)) == []
        found = unpack_answer(until_one(pulling, asked).content)
    sender.join()

    assert isinstance(found, Advertised)
    assert found.hospital == "stock"


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
    server: ServerSide, lines: tuple[Line, Line], content: bytes
) -> None:
    liar, honest = lines
    asked = server.give(QUERY, ADVERTISE, [liar.node, honest.node])
    liar.fleet.send(of(liar.receive(), content))
    honest.fleet.send(answered(honest.receive(), "honest"))
    with closing(Pulling(server.grid)) as pulling:
        found = {reply.metadata.reply_to_message_id: reply for reply in pulling.replies(asked)}

    assert found.keys() == set(asked)
    refused = found[asked[0]]
    assert refused.has_error()
    assert refused.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
    assert "no answer to the question" in str(refused.error.reason)
    assert unpack_answer(found[asked[1]].content).hospital == "honest"


def test_nobody_answers_in_another_s_place(server: ServerSide, lines: tuple[Line, Line]) -> None:
    liar, honest = lines
    asked = server.give(QUERY, ADVERTISE, [liar.node, honest.node])
    own, foreign = liar.receive(), honest.receive()
    forged = answered(foreign, "honest")
    head = MessageProto.FromString(answered(own, "liar").head)
    head.metadata.message_id = forged.digest
    liar.fleet.send(Letter(head.SerializeToString(), forged.tree, forged.objects))
    with closing(Pulling(server.grid)) as pulling:
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
    server: ServerSide, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    dead, quick = lines
    asked = server.give(QUERY, ADVERTISE, [dead.node, quick.node])
    held = hold(dead, monkeypatch, many(dead.receive(), monkeypatch))
    sent = held[: len(held) // 2] if last == "root" else held[1:]
    assert all(send() for send in sent)
    quick.fleet.send(answered(quick.receive(), "quick"))

    with closing(Pulling(server.grid, quiet=QUIET)) as pulling:
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


def test_a_slow_hospital_is_waited_for_as_long_as_something_comes(
    server: ServerSide, lines: tuple[Line, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = lines[0]
    asked = server.give(QUERY, ADVERTISE, [line.node])
    held = hold(line, monkeypatch, many(line.receive(), monkeypatch))

    def slowly() -> None:
        for send in held:
            time.sleep(QUIET / 4)
            send()

    sender = threading.Thread(target=slowly)
    with closing(Pulling(server.grid, quiet=QUIET)) as pulling:
        sender.start()
        began = time.monotonic()
        reply = until_one(pulling, asked)
        passed = time.monotonic() - began
    sender.join()

    assert reply.has_content()
    np.testing.assert_array_equal(reply.content.array_records["arrays"]["vector"].numpy(), VECTOR)
    assert passed > QUIET


def test_a_slow_line_has_time_for_the_objects_on_their_way(server: ServerSide) -> None:
    with closing(Pulling(server.grid, size=4_000_000)) as small:
        assert small._quick is not None
        assert small._quick._quiet == 30 + 32  # a megabit a second
    with closing(Pulling(server.grid, size=10**9)) as large:
        assert large._quick is not None
        assert large._quick._quiet < 300
