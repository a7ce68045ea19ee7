"""A hospital's line to a real SuperLink, and what it answers there."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import PullObjectRequest

from fedward.client.fleet import FleetConnection
from fedward.client.letter import Letter, reply_to
from fedward.server.pulling import Pulling
from fedward.study.messages import Advertised, AdvertiseQuery
from fedward.study.wire import pack_answer, pack_request
from tests.superlink_ward import ServerSide, Ward, until

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


def answered(letter: Letter, name: str) -> Letter:
    return reply_to(letter, pack_answer(Advertised(name, b"advert")))


def large(letter: Letter, monkeypatch: pytest.MonkeyPatch, *, size: int, piece: int) -> Letter:
    """An answer with an array of so many bytes, in pieces of so many."""
    name = "flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
    with monkeypatch.context() as patched:
        patched.setattr(name, piece)
        arrays = ArrayRecord(
            {"vector": Array(np.random.default_rng(1).integers(0, 256, size, np.uint8))}
        )
        return reply_to(letter, RecordDict({"terms": ConfigRecord({"n": 1}), "arrays": arrays}))


def is_forgotten(server: ServerSide, name: str) -> bool:
    """Whether the SuperLink holds no such object any more."""
    asked = PullObjectRequest(node=server.grid.node, run_id=server.run, object_id=name)
    return not server._client.PullObject(asked).object_found


def until_one(pulling: Pulling, asked: list[str], *, seconds: float = 30.0) -> Message:
    """The next reply, whenever it comes."""
    got: list[Message] = []

    def there() -> bool:
        got.extend(pulling.replies(asked))
        return bool(got)

    until(there, seconds=seconds)
    assert len(got) == 1
    return got[0]
