"""One exchange with hospitals: ask, and hear each answer as it comes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from fedward.server.pulling import TOO_LARGE, Pulling, ReplyTooLarge
from fedward.study.errors import FedwardError, TrainingError, printable
from fedward.study.messages import Answer, Refusal
from fedward.study.wire import unpack_answer

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_SHARE = 0.05  # of the time since the last answer that may pass until the next look
_LONGEST_REASON = 500  # characters; a hospital says it, and it stays in logs and checkpoints
_UNREACHABLE = {
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
}


@dataclass
class Heard:
    """What came of one exchange.

    Attributes:
        answered: Nodes whose answer was taken.
        refusals: What others said, by node.
        silent: Nodes that said nothing until the deadline, or could not be reached.
    """

    answered: list[int] = field(default_factory=list)
    refusals: dict[int, Refusal] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)


Take = Callable[[int, Answer], None]
Heed = Callable[[], None]


def go_on() -> None:
    """A check that lets an exchange go on."""


def exchange(
    grid: Grid,
    contents: Mapping[int, RecordDict],
    message_type: str,
    take: Take,
    *,
    group: str,
    size: int = 0,
    deadline: float,
    heed: Heed = go_on,
) -> Heard:
    """Ask nodes, and hand over each answer as it comes; no two long ones are ever held.

    Args:
        grid: The way to the hospitals.
        contents: What to ask each node.
        message_type: Flower's type of the question.
        take: Called with the node and its answer, which is no refusal. What it raises makes that
            answer a refusal, and harms no other.
        group: What the exchange is called in Flower's records.
        size: Length that a vector in an answer must have.
        deadline: Seconds after which answers are no longer waited for.
        heed: Called again and again; what it raises ends the exchange.
    """
    messages = [
        Message(content, node, message_type, group_id=group, ttl=deadline)
        for node, content in contents.items()
    ]
    pushed = [identifier for identifier in grid.push_messages(messages) if identifier]
    asked = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
    heard = Heard()
    missing = set(contents)
    for reply in _replies(grid, pushed, size, deadline, heed):
        # Not the reply's own source: what a SuperLink says of a lost node comes from itself.
        node = asked[reply.metadata.reply_to_message_id]
        missing.discard(node)
        if _is_unreachable(reply):
            heard.silent.append(node)
            continue
        refusal = _take(node, reply, take, size)
        if refusal is None:
            heard.answered.append(node)
        else:
            heard.refusals[node] = refusal
    heard.silent += sorted(missing)
    return heard


def _replies(
    grid: Grid, pushed: list[str], size: int, deadline: float, heed: Heed
) -> Iterator[Message]:
    """Each reply once. Long ones are pulled one by one: each is dropped before the next comes."""
    waiting = dict.fromkeys(pushed)
    unheard: list[str] = []
    latest = time.monotonic()
    last = latest + deadline
    pulling = Pulling(grid, size=size * 4, hospitals=len(pushed))
    while waiting and time.monotonic() < last:
        heed()
        before = len(waiting)
        for reply in pulling.replies(list(waiting)):
            if reply.metadata.reply_to_message_id in waiting:  # a second delivery counts once
                del waiting[reply.metadata.reply_to_message_id]
                if _is_unreachable(reply):
                    unheard.append(reply.metadata.reply_to_message_id)
                yield reply
        if len(waiting) < before:
            latest = time.monotonic()
        else:
            _pause(time.monotonic() - latest)
    pulling.forget([*unheard, *waiting])


def _is_unreachable(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in _UNREACHABLE


def _pause(passed: float) -> None:
    """A small share of the time since the last answer: no round becomes longer by more."""
    time.sleep(min(max(_SHORTEST_PAUSE, passed * _SHARE), _LONGEST_PAUSE))


def _take(node: int, reply: Message, take: Take, size: int) -> Refusal | None:
    """Hand one reply over, or say why not. A reply that cannot be used harms no other."""
    name = f"node {node}"
    if reply.has_error():
        kind = ReplyTooLarge.__name__ if reply.error.code == TOO_LARGE else "Error"
        return Refusal(name, kind, _last_line(reply.error.reason), "")
    try:
        answer = unpack_answer(reply.content, size=size)
        if isinstance(answer, Refusal):
            return answer
        name = answer.hospital
        take(node, answer)
    except (FedwardError, ValueError) as error:
        what, todo = (
            (error.what, error.todo) if isinstance(error, FedwardError) else (str(error), "")
        )
        return Refusal(name, TrainingError.__name__, printable(what[:_LONGEST_REASON]), todo)
    finally:
        for record in reply.content.values():
            record.clear()  # Flower's messages outlive their last use
    return None


def _last_line(reason: str | None) -> str:
    lines: Iterable[str] = [line for line in (reason or "").splitlines() if line.strip()]
    last = next(reversed(list(lines)), "failed without a reason").strip()
    return printable(last[:_LONGEST_REASON])
