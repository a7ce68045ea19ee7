"""What an audit log notes of a letter is what the worker will open, or the letter is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.fleet_errors import MessageRefused
from fedward.client.letter import (
    Letter,
    from_announcement,
    pack,
    reply_to,
    unpack,
    with_content,
)
from fedward.study.messages import TrainRequest
from fedward.study.wire import pack_request
from tests.client.test_daemon import letter

MODEL = np.arange(40_000, dtype=np.float32)  # too long for the table
HARMLESS = ConfigRecord({"study": "e" * 64, "run": "harmless", "round": 1})


def train_letter() -> Letter:
    """A request with a model, as a server packs it."""
    return holding(pack_request(TrainRequest("d" * 64, "run-1", 7, MODEL)))


def holding(content: RecordDict) -> Letter:
    message = unpack(letter())
    message.content = content
    return pack(message)


def headed(found: Letter, change: Callable[[MessageProto], object]) -> Letter:
    """The same letter below another head."""
    head = MessageProto.FromString(found.head)
    change(head)
    return Letter(head.SerializeToString(), found.tree, found.objects)


def beside(found: Letter, *more: bytes) -> Letter:
    """The same letter, with objects in its tree that hang below nothing."""
    tree = ObjectTree.FromString(found.tree)
    names = {hashlib.sha256(content).hexdigest(): content for content in more}
    for name in names:
        tree.children.add(object_id=name)
    return Letter(found.head, tree.SerializeToString(), {**names, **found.objects})


def rebuilt(found: Letter, kind: str, body: Mapping[str, object]) -> Letter:
    """The same letter with another body in its one object of a kind, and new names above it."""
    objects, names = {}, dict[str, str]()
    for name, content in found.objects.items():  # what hangs below comes first
        head, _, old = content.partition(b"\0")
        if head.startswith(kind.encode() + b" "):
            old = json.dumps(body).encode()
            head = b" ".join([*head.split(b" ")[:2], str(len(old)).encode()])
        changed = head + b"\0" + old
        for before, after in names.items():
            changed = changed.replace(before.encode(), after.encode())
        names[name] = hashlib.sha256(changed).hexdigest()
        objects[names[name]] = changed
    tree = ObjectTree(object_id=names[found.digest])
    return Letter(found.head, tree.SerializeToString(), objects)


def test_an_answer_is_good_for_as_long_as_its_question_by_the_asker_s_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far off the clock here is: Flower throws away what has ended, without a word."""
    question = unpack(letter()).metadata
    for ahead in (3600, -3600):
        then = datetime.fromtimestamp(question.created_at + ahead, UTC)
        monkeypatch.setattr("flwr.app.message.message.now", lambda then=then: then)
        reply = unpack(reply_to(letter(), RecordDict())).metadata

        assert (reply.created_at, reply.ttl) == (question.created_at, question.ttl)


def test_a_letter_goes_through_a_pipe() -> None:
    found = Letter(b"head", b"", {"a" * 64: b"one", "b" * 64: b""})
    frames = found.frames()

    assert Letter.read(lambda: next(frames)) == found


def test_an_honest_letter_is_read_without_being_opened() -> None:
    found = train_letter()
    found.refuse_forged()

    assert (found.kind, found.run) == ("train", 7)
    assert (found.terms["study"], found.terms["run"], found.terms["round"]) == (
        "d" * 64,
        "run-1",
        7,
    )
    assert found.model == hashlib.sha256(MODEL.tobytes()).hexdigest()


def test_equal_pieces_count_as_often_as_they_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.app.message.array.FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE", 8)
    model = np.array([1, 2, 1, 2, 3, 4, 1, 2], dtype=np.float32)
    found = holding(pack_request(TrainRequest("d" * 64, "run-1", 7, model)))
    found.refuse_forged()

    assert found.model == hashlib.sha256(model.tobytes()).hexdigest()


def test_what_the_server_s_side_leaves_out_on_the_way_is_no_forgery() -> None:
    message = unpack(train_letter())
    message.metadata.__dict__["_src_task_id"] = 9
    found = headed(pack(message), lambda head: setattr(head.metadata, "src_task_id", 0))

    found.refuse_forged()


TABLE = st.dictionaries(
    st.text(max_size=8),
    st.one_of(
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=50),
        st.lists(st.binary(max_size=9), max_size=3),
        st.lists(st.floats(), max_size=3),
        st.booleans(),
    ),
    max_size=6,
)


@given(TABLE)
def test_a_letter_is_the_same_whether_its_content_came_with_its_head_or_beside_it(
    table: dict[str, Any],
) -> None:
    found = holding(RecordDict({"terms": ConfigRecord(table)}))
    came = MessageProto.FromString(with_content(found).SerializeToString())

    assert from_announcement(came) == found


def test_another_content_than_was_announced_is_refused() -> None:
    announced = with_content(holding(RecordDict({"terms": HARMLESS})))
    for change in (
        lambda head: head.content.CopyFrom(with_content(letter()).content),
        lambda head: setattr(head.metadata, "message_type", "query.advertise"),
        lambda head: setattr(head.metadata, "message_id", "0" * 64),
        lambda head: head.content.items.add(key="more"),
    ):
        head = MessageProto.FromString(announced.SerializeToString())
        change(head)
        with pytest.raises(MessageRefused, match="not what it says"):
            from_announcement(head)


def test_an_answer_is_no_forgery() -> None:
    reply_to(train_letter(), RecordDict({"terms": HARMLESS})).refuse_forged()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("message_type", "query.advertise"),
        ("message_type", ""),
        ("message_type", "nonsense.x.y"),
        ("run_id", 8),
        ("dst_node_id", 3),
        ("ttl", 5.0),
        ("ttl", float("nan")),
        ("reply_to_message_id", "x"),
    ],
)
def test_a_head_that_no_hash_covers_is_not_believed(name: str, value: object) -> None:
    found = headed(train_letter(), lambda head: setattr(head.metadata, name, value))

    assert (found.kind, found.run) == ("train", 7)
    with pytest.raises(MessageRefused, match="its head is another message's"):
        found.refuse_forged()


def test_a_head_without_anything_is_refused() -> None:
    with pytest.raises(MessageRefused):
        headed(train_letter(), lambda head: head.ClearField("metadata")).refuse_forged()


@pytest.mark.parametrize("kind", ["", "nonsense.x.y", "train.a.b"])
def test_a_message_that_cannot_be_answered_is_refused(kind: str) -> None:
    """Head and message agree on a type that Flower knows no answer to."""
    found = train_letter()
    message = MessageProto.FromString(found.objects[found.digest].partition(b"\0")[2])
    message.metadata.message_type = kind
    body = message.SerializeToString()
    head = found.objects[found.digest].partition(b"\0")[0].rpartition(b" ")[0]
    root = head + f" {len(body)}".encode() + b"\0" + body
    objects = {n: c for n, c in found.objects.items() if n != found.digest}
    objects[name := hashlib.sha256(root).hexdigest()] = root
    forged = Letter(body, ObjectTree(object_id=name).SerializeToString(), objects)

    with pytest.raises(ValueError, match="Invalid message type"):
        reply_to(forged, RecordDict())
    with pytest.raises(MessageRefused, match="cannot be read"):
        forged.refuse_forged()


def test_a_table_that_came_along_is_not_the_message_s() -> None:
    found = beside(train_letter(), HARMLESS.deflate())

    assert found.terms["run"] == "run-1"
    with pytest.raises(MessageRefused, match="objects came with it that are not in it"):
        found.refuse_forged()


def test_an_array_that_came_along_does_not_hide_the_message_s() -> None:
    found = beside(train_letter(), Array(np.zeros(2, np.float32)).deflate())

    assert found.model == hashlib.sha256(MODEL.tobytes()).hexdigest()
    with pytest.raises(MessageRefused, match="objects came with it that are not in it"):
        found.refuse_forged()


def test_a_short_array_is_the_model_too_and_the_only_one() -> None:
    few = np.arange(4, dtype=np.float32)
    short = pack_request(TrainRequest("d" * 64, "run-1", 7, few))

    found = holding(short)
    found.refuse_forged()
    assert found.model == hashlib.sha256(few.tobytes()).hexdigest()

    short["arrays"] = ArrayRecord({"vector": Array(MODEL)})
    with pytest.raises(MessageRefused, match="more than one array"):
        holding(short).refuse_forged()


@pytest.mark.parametrize(
    "more",
    [
        {"other": HARMLESS},
        {"other": ArrayRecord([np.ones(2)])},
        {"other": MetricRecord({"x": 1})},
        {"arrays": ArrayRecord({"vector": Array(MODEL), "other": Array(np.ones(2))})},
        {"arrays": ArrayRecord({"other": Array(MODEL)})},
        {"arrays": HARMLESS},
        {"terms": ArrayRecord({"vector": Array(MODEL)})},
    ],
)
def test_a_message_is_one_array_and_one_table(more: dict[str, ConfigRecord]) -> None:
    content = pack_request(TrainRequest("d" * 64, "run-1", 7, MODEL))
    for name, record in more.items():
        content[name] = record

    with pytest.raises(MessageRefused, match=r"more than one|something else where"):
        holding(content).refuse_forged()


def test_parts_that_a_record_does_not_name_are_refused() -> None:
    with pytest.raises(MessageRefused, match="names other parts"):
        rebuilt(train_letter(), "RecordDict", {"terms": "f" * 64}).refuse_forged()


@pytest.mark.parametrize("places", [[9], ["x"], [[]], "x", None])
def test_an_array_of_pieces_that_are_not_there_is_refused(places: object) -> None:
    body = {"dtype": "", "shape": [], "stype": "", "arraychunk_ids": places}

    with pytest.raises(MessageRefused, match="cannot be read"):
        rebuilt(train_letter(), "Array", body).refuse_forged()


def test_an_array_that_repeats_a_piece_without_end_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fedward.client.letter.LARGEST_LETTER", 2**20)
    body = {"dtype": "", "shape": [], "stype": "", "arraychunk_ids": [0] * 2**17}

    with pytest.raises(MessageRefused, match="too large"):
        rebuilt(train_letter(), "Array", body).refuse_forged()


@pytest.mark.parametrize("junk", [b"", b"junk", b"Message  0\0", b"RecordDict  2\0{}"])
def test_a_root_that_is_no_message_is_refused(junk: bytes) -> None:
    root = ObjectTree(object_id="a" * 64).SerializeToString()

    with pytest.raises(MessageRefused):
        Letter(train_letter().head, root, {"a" * 64: junk}).refuse_forged()


def test_an_error_in_place_of_a_message_is_refused() -> None:
    from flwr.app import Error

    question = unpack(train_letter())
    assert isinstance(question, Message)

    with pytest.raises(MessageRefused):
        pack(Message(Error(1, "x"), reply_to=question)).refuse_forged()
