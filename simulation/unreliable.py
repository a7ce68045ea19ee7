"""A grid that loses messages, at random or by plan, so that anybody can watch a study recover."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode

from fedward.client.app import open_site
from fedward.simulation.grid import InProcessGrid
from fedward.study.messages import ADVERTISE
from fedward.study.simulation import Failure
from fedward.study.wire import numbered


class UnreliableGrid(InProcessGrid):
    """Hospitals on this machine, over a bad line.

    A lost message comes back as Flower's error for a node that cannot be reached. Adverts are not
    lost: a hospital that cannot make its key known is not in the run at all.
    """

    def __init__(
        self,
        hospitals: Sequence[Path],
        *,
        drop: float,
        failures: Sequence[Failure],
        seed: int,
        workers: int = 1,
    ) -> None:
        """Set up nodes 1, 2, ... for these hospitals.

        Args:
            hospitals: Their `hospital.toml` files.
            drop: Probability with which a message is lost, half of them after the work was done.
            failures: Messages that are lost for certain.
            seed: Of what is lost at random.
            workers: Processes to use at most.
        """
        super().__init__(hospitals, workers=workers)
        self._names = {n: open_site(p).hospital.name for n, p in enumerate(hospitals, start=1)}
        self._drop = drop
        self._failures = failures
        self._seed = seed
        self._asked: Counter[tuple[object, ...]] = Counter()
        self._answers_lost: dict[str, Message] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the first of these messages that was pushed, as a list of one."""
        return [self._carried(reply) for reply in super().pull_messages(message_ids)]

    def _carried(self, reply: Message) -> Message:
        asked = self._answers_lost.pop(reply.metadata.reply_to_message_id, None)
        return reply if asked is None else _lost(asked)

    def _submit(self, message: Message) -> Future[Message] | None:
        fate = self._fate(message)
        if fate == "question lost":
            answered: Future[Message] = Future()
            answered.set_result(_lost(message))
            return answered
        if fate == "answer lost":
            self._answers_lost[message.metadata.message_id] = message
        return super()._submit(message)

    def _fate(self, message: Message) -> str | None:
        kind, node = message.metadata.message_type, message.metadata.dst_node_id
        if kind == ADVERTISE:
            return None
        number, attempt = numbered(message.content)
        question = (node, kind, number, attempt)
        times, exchange = self._asked[question], kind.removeprefix("query.")
        self._asked[question] += 1
        for failure in self._failures:
            if (
                (failure.hospital, failure.exchange) == (self._names[node], exchange)
                and failure.round in {None, number}
                and failure.attempt in {None, attempt}
                and (failure.again is None or times <= failure.again)
            ):
                return "answer lost" if failure.worked else "question lost"
        chance = random.Random(f"{self._seed}/{question}/{times}")  # noqa: S311 - no secret
        if chance.random() >= self._drop:
            return None
        return chance.choice(["answer lost", "question lost"])


def _lost(message: Message) -> Message:
    error = Error(ErrorCode.NODE_UNAVAILABLE, "lost on purpose")
    return Message(error, reply_to=message)
