"""Flower's grid, with a short message inside its announcement instead of objects beside it.

To the SuperLink each of Flower's objects is a request in either direction, and those are what a
small round consists of. A message that Flower announces may hold its content; a stock SuperLink
hands that on. Who understands it, as Fedward's daemon does, answers in the same way and is asked so
from then on: only the root, by which the SuperLink knows the message, is sent besides. Everybody
else, such as a stock SuperNode, takes the objects as ever. Private names of Flower that this needs
stand in this file; tested on 1.41.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PushObjectRequest
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_push_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.run import Run
from flwr.superlink.grid import HttpGrid

_LOG = logging.getLogger("fedward.server")
_SHORT_QUESTION = 64 << 10  # bytes; one that is cut on its way down is not announced again
_TOGETHER = 8 << 20  # bytes of all questions of one exchange
_LINES = 2  # requests of each kind on their way at once


@contextmanager
def quick(grid: Grid) -> Iterator[Grid]:
    """The grid of a deployment made quick; any other, such as a simulation's, as it is."""
    if not isinstance(grid, HttpGrid):
        yield grid
        return
    made = QuickGrid(grid)
    try:
        yield made
    finally:
        made.close()


class QuickGrid(Grid):
    """A grid that knows who reads a message from its announcement.

    Attributes:
        plain: Flower's own.
        lines: Threads that fetch what the round waits for.
        aside: Threads that send what nobody waits for.
    """

    def __init__(self, plain: HttpGrid) -> None:
        self.plain = plain
        self.lines = ThreadPoolExecutor(_LINES, thread_name_prefix="fetch")
        self.aside = ThreadPoolExecutor(_LINES, thread_name_prefix="aside")
        self._readers: set[int] = set()
        self._read: list[str] = []
        self._read_before: list[str] = []

    def has_read(self, node: int, reply: str) -> None:
        """A node answered inside an announcement, and can be asked so.

        The reply is confirmed after the next exchange: its root comes later than its announcement,
        and a SuperLink that forgot the reply before keeps a note of that root for ever.

        Args:
            node: Who answered.
            reply: Name of the reply's root.
        """
        self._readers.add(node)
        self._read.append(reply)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; what is short goes with its announcement.

        Returns:
            Flower's identifiers in the same order; empty for one that the SuperLink does not take.
        """
        messages = list(messages)
        self._confirm_older()
        for message in messages:
            # A SuperLink on disk drops these, but the hash would cover them.
            message.metadata.src_task_id = message.metadata.dst_task_id = None
        if not messages or any(map(_has_array, messages)):
            return self.plain.push_messages(messages)
        with no_object_id_recompute():
            for message in messages:
                message.metadata.__dict__["_message_id"] = message.object_id
            heads = [message_to_proto(message) for message in messages]
            sizes = [head.ByteSize() for head in heads]
            if max(sizes) > _SHORT_QUESTION or sum(sizes) > _TOGETHER:
                return self.plain.push_messages(messages)
            return self._announce(messages, heads)

    def _announce(self, messages: list[Message], heads: list[MessageProto]) -> list[str]:
        reads = {m.object_id: m for m in messages if m.metadata.dst_node_id in self._readers}
        # Who does not answer at all is asked with objects the next time.
        self._readers.difference_update(message.metadata.dst_node_id for message in messages)
        objects: dict[str, InflatableObject] = {}
        trees = []
        for message in messages:
            if message.object_id in reads:
                trees.append(ObjectTree(object_id=message.object_id))
            else:
                trees.append(get_object_tree(message))
                objects.update(get_all_nested_objects(message))
        answer = self.plain._runtime_client.PushMessages(
            PushAppMessagesRequest(messages_list=heads, message_object_trees=trees)
        )
        missing = set(answer.objects_to_push)
        for name in missing & reads.keys():
            self.aside.submit(self._push_root, name, reads[name].deflate(), answer.session_id)
        push = make_push_object_fn_protobuf(
            self.plain._runtime_client.PushObject,
            self.plain.node,
            self.plain.run.run_id,
            session_id=answer.session_id,
        )
        push_objects(objects, push, object_ids_to_push=missing & set(objects))
        return list(answer.message_ids)

    def _push_root(self, name: str, content: bytes, session: str) -> None:
        """Let the SuperLink close its books on an announcement; nobody waits for that."""
        asked = PushObjectRequest(
            node=self.plain.node,
            run_id=self.plain.run.run_id,
            object_id=name,
            object_content=content,
            session_id=session,
        )
        try:
            if not self.plain._runtime_client.PushObject(asked).stored:
                _LOG.debug("a message's root came too late")
        except Exception as error:  # Flower's retries raise of any kind
            _LOG.debug("a message's root was not pushed: %s", error)

    def _confirm_older(self) -> None:
        """Let the SuperLink forget the replies of the exchange before the last."""
        for name in self._read_before:
            self.aside.submit(self.confirm, name)
        self._read_before, self._read = self._read, []

    def confirm(self, name: str) -> None:
        """Let the SuperLink forget a message; what goes wrong here, the next request meets again.

        Args:
            name: Of its root.
        """
        asked = ConfirmMessageReceivedRequest(
            node=self.plain.node, run_id=self.plain.run.run_id, message_object_id=name
        )
        try:
            self.plain._runtime_client.ConfirmMessageReceived(asked)
        except Exception as error:  # Flower's retries raise of any kind
            _LOG.debug("a message was not confirmed: %s", error)

    def close(self) -> None:
        """Wait for what is under way; the SuperLink forgets the rest with the run.

        Flower closes its line to the SuperLink next, and the system gives its descriptor to what is
        opened then: a request that is still under way would read from that. Nor would the process
        end before: the interpreter waits for its threads.
        """
        for threads in (self.lines, self.aside):
            threads.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """As Flower's grid."""
        self.plain.set_run(run)

    @property
    def run(self) -> Run:
        """As Flower's grid."""
        return self.plain.run

    @property
    def node(self) -> Node:
        """As Flower's grid."""
        return self.plain.node

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """As Flower's grid."""
        return self.plain.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """As Flower's grid."""
        return self.plain.get_node_ids()

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """As Flower's grid."""
        return self.plain.pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """As Flower's grid."""
        return self.plain.send_and_receive(messages, timeout=timeout)


def _has_array(message: Message) -> bool:
    return bool(message.content.array_records)
