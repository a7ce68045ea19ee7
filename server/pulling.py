"""Fetching replies from a SuperLink without waiting for one of them.

Flower's `HttpGrid.pull_messages` sleeps a second and more whenever a reply is announced and not yet
there whole, asks for one message at a time or holds all of them at once, and waits until the
SuperLink has forgotten a reply. Here a reply is fetched once its last object has come, one reply
after another; nobody waits for a hospital whose upload stopped in the middle, and one that adds
nothing for long is given up. A reply that is larger than any honest one can be is refused before it
is held. A short reply comes inside its announcement (`quick_grid.py`), together with all others
that were announced meanwhile, and is refused after it has come. Private names of Flower that
this needs stand in this file; tested on 1.41.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
)
from flwr.superlink.grid import HttpGrid

from fedward.server.quick_grid import QuickGrid
from fedward.study.errors import FederationError

_LOG = logging.getLogger("fedward.server")
_SLOWEST = 125_000  # bytes a second of a hospital's line that is still waited for
_QUIET = 30.0  # seconds; a hospital gives up its line after as many
_AGAIN = 30.0  # seconds until it has found its way back
_MOST_AT_ONCE = 32 << 20  # bytes that a hospital sends at once: 4 objects of 8 MiB
_PIECE = (
    1 << 20
)  # bytes of the smallest pieces that an array comes in; ours are 8, stock ones 5 MiB
_FEW = 16  # objects of a reply besides; an honest one has at most 5
_WORDS = 1 << 20  # bytes of a reply besides its array, and of what it says of each hospital:
_WORDS_EACH = 16 << 10  # a share and a seed of up to 4096 bytes, and twice its name
_HEAD = 256  # bytes of an object's head, at most, and of its name in the one above it

TOO_LARGE = 1001
"""Code of the error that stands for a reply which was refused for its size; none of Flower's."""


class ReplyTooLarge(FederationError):  # noqa: N818 - reads as the fact that it states
    """A hospital's reply is larger than any that the study's layout can need."""


@dataclass(frozen=True)
class Room:
    """How large a reply can be, from public numbers alone.

    Attributes:
        objects: That it may have.
        bytes: Of all of them together.
    """

    objects: int
    bytes: int

    @classmethod
    def of(cls, size: int, hospitals: int) -> Room:
        """What an honest reply needs at most, and a little.

        Args:
            size: Bytes of its array.
            hospitals: Those that it may say something of.
        """
        objects = _FEW + size // _PIECE
        return cls(objects, size + objects * _HEAD + _WORDS + hospitals * _WORDS_EACH)

    def refuse(self, *, objects: int = 0, size: int = 0) -> None:
        """Raise if there is more.

        Raises:
            ReplyTooLarge: There is.
        """
        if objects > self.objects:
            what = f"{objects} objects, where {self.objects}"
        elif size > self.bytes:
            what = f"more than the {self.bytes} bytes that"
        else:
            return
        raise ReplyTooLarge(
            f"its answer has {what} are the most that this study needs",
            todo="it runs another version of fedward, or lies: ask it",
        )


class Pulling:
    """The replies to one exchange's messages, as they come.

    Any other grid than a quick one, such as a simulation's, is asked for them one by one.
    """

    def __init__(
        self, grid: Grid, *, size: int = 0, hospitals: int = 1, quiet: float | None = None
    ) -> None:
        """Nothing is asked yet.

        Args:
            grid: The way to the hospitals.
            size: Bytes of the array in a reply.
            hospitals: Those that a reply may say something of.
            quiet: Seconds without a new object after which an announced reply is given up; if None,
                what a slow line takes for the objects that are on their way, and no less than a
                hospital needs to give up a line that went silent and to send again.
        """
        room = Room.of(size, hospitals)
        if quiet is None:
            quiet = _QUIET + max(_AGAIN, min(size, _MOST_AT_ONCE) / _SLOWEST)
        self._quick = _Quick(grid, quiet, room) if isinstance(grid, QuickGrid) else None
        self._grid = grid

    def replies(self, waiting: Iterable[str]) -> Iterator[Message]:
        """Those that are there now, of messages with these identifiers; none before it is used."""
        if self._quick is not None:
            yield from self._quick.replies(waiting)
            return
        for identifier in list(waiting):
            yield from self._grid.pull_messages([identifier])

    def forget(self, questions: Iterable[str]) -> None:
        """Let the SuperLink drop questions that nobody fetched, with the models in them.

        It keeps them until the run ends otherwise. What a hospital is sending stays: its objects
        would be gone under its hands.
        """
        if self._quick is not None:
            self._quick.forget(questions)


@dataclass
class _Coming:
    """A reply that was announced, and as much of it as is here.

    Attributes:
        head: The message, with its content if that is short and came along.
        names: Of its objects.
        awaited: One that was not there at the last look; at first the one that comes last.
        unseen: Names of those that were there at no look, in turn.
        moved: When one came last, on the monotonic clock.
        looked: When that was last looked for.
        contents: What has been fetched.
        size: Bytes of that.
        seen: Bytes of what was looked at and not kept.
        lock: Of `size`.
    """

    head: MessageProto
    names: list[str]
    awaited: str
    unseen: deque[str]
    moved: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    contents: dict[str, bytes] = field(default_factory=dict)
    size: int = 0
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def root(self) -> str:
        return str(self.head.metadata.message_id)


class _Quick:
    def __init__(self, grid: QuickGrid, quiet: float, room: Room) -> None:
        self._grid = grid.plain
        self._quiet = quiet
        self._room = room
        self._has_read = grid.has_read
        self._run = grid.run.run_id
        self._pull = make_pull_object_fn_protobuf(
            self._grid._runtime_client.PullObject, grid.node, self._run
        )
        self._confirm = grid.confirm
        self._lines = grid.lines
        self._aside = grid.aside
        self._coming: list[_Coming] = []

    def replies(self, waiting: Iterable[str]) -> Iterator[Message]:
        announced = {coming.head.metadata.reply_to_message_id for coming in self._coming}
        asked = [identifier for identifier in waiting if identifier not in announced]
        if asked:
            answer = self._grid._runtime_client.PullMessages(
                PullAppMessagesRequest(message_ids=asked)
            )
            pairs = zip(answer.messages_list, answer.message_object_trees, strict=True)
            self._coming += [_announced(head, tree) for head, tree in pairs]
        for coming in list(self._coming):
            try:
                reply = self._reply(coming)
            except ObjectPullError as error:
                code = ErrorCode.MESSAGE_UNAVAILABLE
                reply = _error(self._grid, coming, code, str(error))
            except ReplyTooLarge as error:
                coming.contents.clear()
                self._aside.submit(self._confirm, coming.root)  # the SuperLink drops it too
                reply = _error(self._grid, coming, TOO_LARGE, error.line())
            if reply is not None:
                self._coming.remove(coming)
                yield reply

    def _reply(self, coming: _Coming) -> Message | None:
        """The reply; None if its sender has not sent all of it.

        Raises:
            ObjectPullError: It will never be whole.
            ReplyTooLarge: It has more objects, or more bytes, than any that is needed.
        """
        self._room.refuse(objects=len(coming.names), size=coming.head.ByteSize())
        if coming.head.content.items:
            self._has_read(coming.head.metadata.src_node_id, coming.root)
            return self._read(coming, message_from_proto)
        if not self._has(coming, coming.awaited):
            self._refuse_quiet(coming)
            return None
        coming.moved = time.monotonic()
        rest = [name for name in coming.names if name not in coming.contents]
        there = self._lines.map(lambda name: self._has(coming, name), rest)
        missing = [name for name, found in zip(rest, there, strict=True) if not found]
        if missing:  # a stock SuperNode sends some of them after the root
            coming.awaited = missing[0]
            return None
        self._aside.submit(self._confirm, coming.root)
        return self._read(coming, lambda _: _inflated(coming))

    def _read(self, coming: _Coming, opened: Callable[[MessageProto], Message]) -> Message:
        """A reply that is here, or what stands for one that cannot be read."""
        try:
            return _answer_to(coming, opened(coming.head))
        except Exception as error:  # the SuperLink looks into nothing: a hospital can send anything
            _LOG.debug("a reply cannot be read", exc_info=True)
            what = f"what it sent is no answer to the question ({type(error).__name__})"
            return _error(self._grid, coming, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, what)

    def _has(self, coming: _Coming, name: str) -> bool:
        """Fetch an object if it has come, and if there is room for it.

        Raises:
            ReplyTooLarge: There is none. The gate lets only small objects in, so no more than a
                few of those were held in vain.
        """
        try:
            content = self._pull(name)
        except ObjectUnavailableError:
            return False
        with coming.lock:
            if name not in coming.contents:
                coming.size += len(content)
            self._room.refuse(size=coming.size)
            coming.contents[name] = content
        return True

    def _refuse_quiet(self, coming: _Coming) -> None:
        """Look now and then whether more of a reply has come; nothing is kept, there may be many.

        Each object is looked for within the quiet that is allowed, in whatever order they come.

        Raises:
            ObjectPullError: Nothing did for too long.
            ReplyTooLarge: More is there already than any honest reply has.
        """
        now = time.monotonic()
        if now - coming.looked < self._quiet / 10:
            return
        coming.looked = now
        for _ in range(min(len(coming.unseen), len(coming.names) // 8 + 1)):
            name = coming.unseen.popleft()
            if name in coming.contents:
                continue
            try:
                content = self._pull(name)
            except ObjectUnavailableError:
                coming.unseen.append(name)
            else:
                coming.moved = now
                coming.seen += len(content)  # each name is looked for until it is there, once
                self._room.refuse(size=coming.size + coming.seen)
        if now - coming.moved > self._quiet:
            raise ObjectPullError(coming.awaited, "its sender went away")

    def forget(self, questions: Iterable[str]) -> None:
        """Wait until it has: what is asked next may share objects with what is dropped."""
        list(self._lines.map(self._confirm, questions))


def _announced(head: MessageProto, tree: ObjectTree) -> _Coming:
    names = list(dict.fromkeys(str(node.object_id) for node in iterate_object_tree(tree)))
    return _Coming(head, names, str(head.metadata.message_id), deque(names))


def _inflated(coming: _Coming) -> Message:
    """The reply put together from its objects.

    Raises:
        Exception: Of any kind, if they are something else.
    """
    message = inflate_object_from_contents(coming.root, coming.contents)
    if not isinstance(message, Message):
        raise TypeError("no message")
    return message


def _answer_to(coming: _Coming, message: Message) -> Message:
    """The reply, if it is the one that was announced.

    Raises:
        Exception: It is none, or another one.
    """
    if not (message.has_content() or message.has_error()):
        raise TypeError("no message")
    question = coming.head.metadata.reply_to_message_id
    if message.metadata.reply_to_message_id != question:
        raise ValueError("an answer to another's question")
    message.metadata.__dict__["_message_id"] = coming.root
    return message


def _error(grid: HttpGrid, coming: _Coming, code: int, why: str) -> Message:
    """What stands for a reply that is not whole, or none."""
    number = grid.node.node_id
    metadata = Metadata(
        run_id=grid.run.run_id,
        message_id="",
        src_node_id=number,
        dst_node_id=number,
        reply_to_message_id=coming.head.metadata.reply_to_message_id,
        group_id="",
        created_at=time.time(),
        ttl=0,
        message_type=SYSTEM_MESSAGE_TYPE,
    )
    return make_message(metadata, error=Error(code, why))
