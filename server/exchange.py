"""One exchange with hospitals: ask, add up each answer as it comes, and drop it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

from fedward.privacy.plain_sum import Layout, PlainSum, Total
from fedward.study.errors import FedwardError, TrainingError
from fedward.study.messages import EVALUATE as EVALUATE
from fedward.study.messages import TRAIN, Refusal, Request, TrainRequest
from fedward.study.wire import pack_request, unpack_answer

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.5


@dataclass
class Gathered:
    """What came of one exchange.

    Attributes:
        total: The sum over the hospitals that answered.
        answered: Their names.
        refusals: What the others said.
        silent: How many said nothing until the deadline.
    """

    total: Total
    answered: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    silent: int = 0


def exchange(
    grid: Grid,
    nodes: Sequence[int],
    request: Request,
    layout: Layout,
    *,
    deadline: float,
    heard: Callable[[str], None],
) -> Gathered:
    """Ask these nodes and add their answers up.

    Args:
        grid: The way to the hospitals.
        nodes: Whom to ask.
        request: What to ask.
        layout: Blocks of a contribution's vector.
        deadline: Seconds after which answers are no longer waited for.
        heard: Called with a hospital's name when its contribution was added.
    """
    message_type = TRAIN if isinstance(request, TrainRequest) else EVALUATE
    content = pack_request(request)
    messages = [
        Message(content, node, message_type, group_id=str(request.round), ttl=deadline)
        for node in nodes
    ]
    waiting = set(grid.push_messages(messages))
    running = PlainSum(layout)
    gathered = Gathered(total=running.total(), silent=len(nodes) - len(waiting))
    last = time.monotonic() + deadline
    pause = _FIRST_PAUSE
    while waiting and time.monotonic() < last:
        replies = list(grid.pull_messages(waiting))
        for reply in replies:
            if reply.metadata.reply_to_message_id in waiting:  # a second delivery counts once
                waiting.remove(reply.metadata.reply_to_message_id)
                _take(reply, running, layout, gathered, heard)
        pause = _FIRST_PAUSE if replies else min(2 * pause, _LONGEST_PAUSE)
        if waiting and not replies:
            time.sleep(pause)
    gathered.silent += len(waiting)
    gathered.total = running.total()
    return gathered


def _take(
    reply: Message,
    running: PlainSum,
    layout: Layout,
    gathered: Gathered,
    heard: Callable[[str], None],
) -> None:
    """Add one reply to the sum, or note why not. A reply that cannot be used harms no other."""
    node = f"node {reply.metadata.src_node_id}"
    if reply.has_error():
        gathered.refusals.append(Refusal(node, "Error", _last_line(reply.error.reason), ""))
        return
    try:
        answer = unpack_answer(reply.content, size=layout.size)
        if isinstance(answer, Refusal):
            gathered.refusals.append(answer)
            return
        node = answer.hospital
        running.add(answer.vector)
        reply.content.array_records["arrays"].clear()  # Flower's messages outlive their last use
    except (FedwardError, ValueError) as error:
        what, todo = (
            (error.what, error.todo) if isinstance(error, FedwardError) else (str(error), "")
        )
        gathered.refusals.append(Refusal(node, TrainingError.__name__, what, todo))
        return
    gathered.answered.append(answer.hospital)
    heard(answer.hospital)


def _last_line(reason: str | None) -> str:
    lines: Iterable[str] = [line for line in (reason or "").splitlines() if line.strip()]
    return next(reversed(list(lines)), "failed without a reason").strip()
