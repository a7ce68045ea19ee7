"""Fetching replies from a SuperLink without waiting for one of them.

Flower's `HttpGrid.pull_messages` sleeps a second and more whenever a reply is announced and not yet
there whole, asks for one message at a time or holds all of them at once, and waits until the
SuperLink has forgotten a reply. Here a reply is fetched once its last object has come, one reply
after another; nobody waits for a hospital whose upload stopped in the middle, and one that adds
nothing for long is given up. Private names of Flower that this needs stand in this file; tested on
1.41.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as MessageProto
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

_LOG = logging.getLogger("fedward.server")
_LINES = 2  # objects on their way at once
_SLOWEST = 125_000  # bytes a second of a hospital's line that is still waited for
_MOST_AT_ONCE = 32 << 20  # bytes that a hospital sends at once: 4 objects of 8 MiB


class Pulling:
    """The replies to one exchange's messages, as they come.

    A stock `Grid`, as in a simulation, is asked for them one by one.
    """

    def __init__(self, grid: Grid, *, size: int = 0, quiet: float = 30.0) -> None:
        """Nothing is asked yet.

        Args:
            grid: The way to the hospitals.
            size: Bytes of the array in a reply.
            quiet: Seconds without a new object after which an announced reply is given up, besides
                those that a slow line takes for the objects that are on their way.
        """
        quiet += min(size, _MOST_AT_ONCE) / _SLOWEST
        self._quick = _Quick(grid, quiet) if isinstance(grid, HttpGrid) else None
        self._grid = grid

    def replies(self, waiting: Iterable[str]) -> Iterator[Message]:
        """Those that are there now, of messages with these identifiers; none before it is used."""
        if self._quick is not None:
            yield from self._quick.replies(waiting)
            return
        for identifier in list(waiting):
            yield from self._grid.pull_messages([identifier])

    def close(self) -> None:
        """End what is still under way; nothing is lost by it."""
        if self._quick is not None:
            self._quick.close()


@dataclass
class _Coming:
    """A reply that was announced, and as much of it as is here.

    Attributes:
        head: The message without its content.
        names: Of its objects.
        awaited: One that was not there at the last look; at first the one that comes last.
        unseen: Names of those that were there at no look, in turn.
        moved: When one came last, on the monotonic clock.
        looked: When that was last looked for.
        contents: What has been fetched.
    """

    head: MessageProto
    names: list[str]
    awaited: str
    unseen: deque[str]
    moved: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    contents: dict[str, bytes] = field(default_factory=dict)

    @property
    def root(self) -> str:
        return str(self.head.metadata.message_id)


class _Quick:
    def __init__(self, grid: HttpGrid, quiet: float) -> None:
        self._grid = grid
        self._quiet = quiet
        self._run = grid.run.run_id
        self._pull = make_pull_object_fn_protobuf(
            grid._runtime_client.PullObject, grid.node, self._run
        )
        self._lines = ThreadPoolExecutor(_LINES, thread_name_prefix="pull")
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
            if reply is not None:
                self._coming.remove(coming)
                yield reply

    def _reply(self, coming: _Coming) -> Message | None:
        """The reply; None if its sender has not sent all of it.

        Raises:
            ObjectPullError: It will never be whole.
        """
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
        self._lines.submit(self._confirm, coming.root)
        try:
            return _opened(coming)
        except Exception as error:  # the SuperLink looks into nothing: a hospital can send anything
            _LOG.debug("a reply cannot be read", exc_info=True)
            what = f"what it sent is no answer to the question ({type(error).__name__})"
            return _error(self._grid, coming, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, what)

    def _has(self, coming: _Coming, name: str) -> bool:
        """Fetch an object if it has come."""
        try:
            coming.contents[name] = self._pull(name)
        except ObjectUnavailableError:
            return False
        return True

    def _refuse_quiet(self, coming: _Coming) -> None:
        """Look now and then whether more of a reply has come; nothing is kept, there may be many.

        Each object is looked for within the quiet that is allowed, in whatever order they come.

        Raises:
            ObjectPullError: Nothing did for too long.
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
                self._pull(name)
            except ObjectUnavailableError:
                coming.unseen.append(name)
            else:
                coming.moved = now
        if now - coming.moved > self._quiet:
            raise ObjectPullError(coming.awaited, "its sender went away")

    def _confirm(self, name: str) -> None:
        """Let the SuperLink forget a reply; nobody waits for it."""
        asked = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._run, message_object_id=name
        )
        try:
            self._grid._runtime_client.ConfirmMessageReceived(asked)
        except httpx.HTTPError as error:
            _LOG.debug("a reply was not confirmed: %s", error)

    def close(self) -> None:
        self._lines.shutdown(wait=False)


def _announced(head: MessageProto, tree: ObjectTree) -> _Coming:
    names = list(dict.fromkeys(str(node.object_id) for node in iterate_object_tree(tree)))
    return _Coming(head, names, str(head.metadata.message_id), deque(names))


def _opened(coming: _Coming) -> Message:
    """The reply that was announced, put together.

    Raises:
        Exception: Of any kind, if it is something else.
    """
    message = inflate_object_from_contents(coming.root, coming.contents)
    if not isinstance(message, Message) or not (message.has_content() or message.has_error()):
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
