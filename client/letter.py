"""A message as it travels: a tree of small objects, each named by its SHA-256.

Who holds the line passes letters on; he opens one only to put a short answer, or to find a short
question, inside its announcement. The process that works does the rest.
What the daemon notes of a letter it reads where the worker will: from the tree's root down, and
never from an object that merely came along, or from the head, which no hash covers.

With `fleet.py` this is the only file of the hospital's side that knows Flower's private names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto, recorddict_to_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedward.client.fleet_errors import MessageRefused
from fedward.study.wire import SHORT_MESSAGE

CHUNK_VARIABLE = "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE"
"""Environment variable of whoever packs: the largest piece, in bytes, that an array is cut into."""

LARGEST_LETTER = 2**34  # bytes
_TERMS, _ARRAYS, _VECTOR = "terms", "arrays", "vector"  # as study.wire names them

_SHORT = ("float32", "uint32")  # as study.wire names a short array in the table

Term = str | int | float | bool | bytes


class _Opened(NamedTuple):
    """What hangs below a letter's root.

    Attributes:
        message: The message without its content.
        terms: The table of scalars as it travels; None if there is none.
        vector: Names of the pieces of the array, in order; None if there is none.
        reached: Names of all objects that hang there.
    """

    message: MessageProto
    terms: bytes | None
    vector: list[str] | None
    reached: set[str]


class _Forged(Exception):  # noqa: N818 - reads as the fact that it states
    """Why a letter is not what it says."""


@dataclass(frozen=True)
class Letter:
    """A message as it travels, not opened.

    Attributes:
        head: The message without its content, a protobuf.
        tree: Which object hangs below which, a protobuf.
        objects: What each object holds, by the hexadecimal SHA-256 that names it.
    """

    head: bytes
    tree: bytes
    objects: Mapping[str, bytes] = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the message; it covers every object, as a Merkle tree's root does."""
        return str(ObjectTree.FromString(self.tree).object_id)

    @property
    def size(self) -> int:
        """Bytes of all objects."""
        return sum(map(len, self.objects.values()))

    @property
    def short(self) -> bool:
        """Whether it can go inside its announcement: it has no array beside its table."""
        return self.size <= SHORT_MESSAGE and self._opened.vector is None

    @cached_property
    def kind(self) -> str:
        """What is asked: `train`, `query.advertise`, ..."""
        return str(self._opened.message.metadata.message_type)

    @cached_property
    def run(self) -> int:
        """Flower's number of the run."""
        return int(self._opened.message.metadata.run_id)

    @cached_property
    def seconds(self) -> float:
        """How long whoever sent it waits for the answer, from when it was sent; not below 0."""
        return waited_for(self._opened.message)

    @cached_property
    def terms(self) -> Mapping[str, Term]:
        """The message's table of scalars, whose values are unchecked; empty if there is none."""
        if self._opened.terms is None:
            return {}
        found = ConfigRecord.inflate(self._opened.terms)
        return {key: value for key, value in found.items() if isinstance(value, Term)}

    @cached_property
    def model(self) -> str:
        """SHA-256 of the array's bytes, hexadecimal; empty if there is none.

        The same for every hospital that is told the same numbers, and as in the privacy ledger.
        """
        if self._opened.vector is None:
            short = [data for data in map(self.terms.get, _SHORT) if isinstance(data, bytes)]
            return hashlib.sha256(short[0]).hexdigest() if short else ""
        digest = hashlib.sha256()
        for name in self._opened.vector:
            digest.update(_body(self.objects[name]))
        return digest.hexdigest()

    @cached_property
    def _opened(self) -> _Opened:
        return _open(self.digest, self.objects)

    def refuse_forged(self) -> None:
        """Raise unless it says outside what it holds inside, holds no more, and can be answered.

        Raises:
            MessageRefused: It does not.
        """
        try:
            opened, head = self._opened, MessageProto.FromString(self.head)
            if _claimed(head) != _claimed(opened.message):
                raise _Forged("its head is another message's")
            if (opened.vector is not None) + sum(name in self.terms for name in _SHORT) > 1:
                raise _Forged("it holds more than one array")
            if opened.reached != set(self.objects):
                raise _Forged("objects came with it that are not in it")
            if sum(len(self.objects[name]) for name in opened.vector or ()) > LARGEST_LETTER:
                raise _Forged("its array is too large")
            self.terms, self.model  # noqa: B018 - they can be read
            reply_to(self, RecordDict())
        except Exception as error:  # whoever sent it can have put anything inside
            why = str(error) if isinstance(error, _Forged) else "it cannot be read"
            raise MessageRefused(
                f"a message is not what it says ({why})", todo="the round goes on without it"
            ) from None

    def frames(self) -> Iterator[bytes]:
        """The letter as pieces for a pipe: names and lengths first, then what they name."""
        yield json.dumps(list(self.objects)).encode()
        yield self.head
        yield self.tree
        yield from self.objects.values()

    @classmethod
    def read(cls, next_frame: Callable[[], bytes]) -> Letter:
        """Put together what `frames` took apart."""
        names = json.loads(next_frame())
        head, tree = next_frame(), next_frame()
        return cls(head, tree, {str(name): next_frame() for name in names})


def waited_for(message: MessageProto) -> float:
    """How long an answer to a message is waited for, in seconds from when it was sent; not < 0."""
    lasts = float(message.metadata.ttl)
    return lasts if lasts > 0 else 0.0  # no number is not above 0 either


def with_content(letter: Letter) -> MessageProto:
    """The head of a letter from here with all that hangs below it, as one announcement."""
    head: MessageProto = MessageProto.FromString(letter.head)
    head.content.CopyFrom(recorddict_to_proto(unpack(letter).content))
    return head


def from_announcement(head: MessageProto) -> Letter:
    """The letter whose content came with its head; its hashes are made here, of what came.

    Raises:
        MessageRefused: It is not the letter that the head names.
    """
    announced = head.metadata.message_id
    try:
        letter = pack(message_from_proto(head))
    except Exception:  # whoever sent it can have put anything inside
        letter = None
    if letter is None or letter.digest != announced:
        raise MessageRefused(
            "a message is not what it says (it has another content than it was announced with)",
            todo="the round goes on without it",
        )
    return letter


def names_in(tree: ObjectTree) -> list[str]:
    """Each object once, children first: the order in which they reach the aggregator."""
    found: dict[str, None] = {}
    left = [tree]
    while left:
        top = left.pop()
        found[top.object_id] = None
        left.extend(top.children)
    return list(reversed(found))


def pack(message: Message) -> Letter:
    """Close a message, as an answer that goes out.

    Args:
        message: Its number is set: the SHA-256 over all that it holds.
    """
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        objects = {name: found.deflate() for name, found in get_all_nested_objects(message).items()}
        tree = get_object_tree(message)
        head = message_to_proto(remove_content_from_message(message))
    return Letter(head.SerializeToString(), tree.SerializeToString(), objects)


def pack_reply(reply: Message, question: Message) -> Letter:
    """Close an answer, which is good for as long as its question is, by the asker's own clock.

    Flower reckons a reply's end by the clock here; one that is off lets it end before it is sent.
    """
    reply.metadata.created_at = question.metadata.created_at
    reply.metadata.ttl = question.metadata.ttl
    return pack(reply)


def unpack(letter: Letter) -> Message:
    """Open a letter from the network; what is inside is still to be checked.

    Raises:
        Exception: Of any kind, since whoever sent it can have put anything inside.
    """
    message: object = inflate_object_from_contents(letter.digest, dict(letter.objects))
    if not isinstance(message, Message):
        raise TypeError(f"a {type(message).__name__} instead of a message")
    message.metadata.__dict__["_message_id"] = letter.digest
    return message


def reply_to(letter: Letter, content: RecordDict) -> Letter:
    """An answer to a letter that was not opened."""
    proto = MessageProto(metadata=MessageProto.FromString(letter.head).metadata)
    proto.content.SetInParent()  # empty, but there
    question = message_from_proto(proto)
    return pack_reply(Message(content, reply_to=question), question)


def _open(root: str, objects: Mapping[str, bytes]) -> _Opened:
    """Go from the root down, by the names and the places that unpacking goes by."""
    reached: set[str] = set()

    def take(name: str, kind: str) -> tuple[list[str], bytes]:
        reached.add(name)
        content = objects[name]
        found, children, size = get_object_head_values_from_object_content(content)
        body = _body(content)
        if found != kind or size != len(body):
            raise _Forged(f"it has something else where its {kind} should be")
        return children, bytes(body) if kind != "ArrayChunk" else b""

    def named(name: str, kind: str) -> dict[str, str]:
        children, body = take(name, kind)
        names: dict[str, str] = json.loads(body)
        if set(names.values()) != set(children):
            raise _Forged(f"its {kind} names other parts than hang below it")
        return names

    (content,), body = take(root, "Message")
    message = MessageProto.FromString(body)
    records = named(content, "RecordDict")
    if not set(records) <= {_TERMS, _ARRAYS}:
        raise _Forged("it holds more than one array and one table")
    terms = records.get(_TERMS)
    if terms is not None:
        take(terms, "ConfigRecord")
    vector = None
    if _ARRAYS in records:
        arrays = named(records[_ARRAYS], "ArrayRecord")
        if set(arrays) != {_VECTOR}:
            raise _Forged("it holds more than one array and one table")
        children, body = take(arrays[_VECTOR], "Array")
        places: Sequence[int] = json.loads(body)["arraychunk_ids"]
        vector = [children[place] for place in places]
        for name in children:
            if take(name, "ArrayChunk")[0]:
                raise _Forged("a piece of its array has pieces")
    return _Opened(message, None if terms is None else objects[terms], vector, reached)


def _body(content: bytes) -> memoryview:
    return memoryview(content)[content.index(b"\0") + 1 :]


def _claimed(message: MessageProto) -> bytes:
    """What a message says of itself, but for what the server's side may leave out on the way."""
    metadata = type(message.metadata).FromString(message.metadata.SerializeToString())
    metadata.message_id = ""  # the hash, and so not in what is hashed
    metadata.src_task_id = metadata.dst_task_id = 0  # the server's own affair
    said: bytes = metadata.SerializeToString(deterministic=True)
    return said + bytes([message.HasField("error")])
