"""A server that is killed at a moment of a test's choice, over real hospitals that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from flwr.app import Message
from flwr.serverapp import Grid

from fedward.server.events import Event, Outcome
from fedward.server.federation import Federation
from fedward.server.lost_rounds import LostRounds
from fedward.simulation.grid import InProcessGrid
from fedward.study.study import Study
from fedward.study.wire import numbered
from tests.secure_sites import PRIVATE, Sites, study_of

PATIENT = LostRounds(repeats=2, wait_seconds=0.0, pauses=True)
SEED = 5


class Killed(BaseException):
    """The end of a server: nothing that handles errors may see it."""


class Step(NamedTuple):
    """Something that a server does; `what` is "push" (before anything leaves) or "pulled"."""

    what: str
    kind: str
    round: int
    attempt: int
    node: int


Moment = Callable[[Step, int], bool]


class Watched(InProcessGrid):
    """Hospitals that can be gone, and a server that is killed when `killed` says so.

    Attributes:
        gone: Nodes that are not connected.
        mute: Nodes that are, and do not answer.
        mute_at: The same for one kind of question in one round.
        steps: What the server did.
    """

    def __init__(self, hospitals: Sequence[Path], killed: Moment = lambda s, n: False) -> None:
        super().__init__(hospitals)
        self.gone: set[int] = set()
        self.mute: set[int] = set()
        self.mute_at: dict[tuple[str, int], set[int]] = {}
        self.steps: list[Step] = []
        self._killed = killed
        self._about: dict[str, Message] = {}

    def get_node_ids(self) -> Iterable[int]:
        return [node for node in super().get_node_ids() if node not in self.gone]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = [m for m in messages if m.metadata.dst_node_id not in self._unreachable(m)]
        for message in sent:
            self._step("push", message)
        identifiers = list(super().push_messages(sent))
        self._about |= dict(zip(identifiers, sent, strict=True))
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        replies = list(super().pull_messages(message_ids))
        for reply in replies:
            self._step("pulled", self._about[reply.metadata.reply_to_message_id])
        return replies

    def __enter__(self) -> Watched:
        return self

    def _unreachable(self, message: Message) -> set[int]:
        about = message.metadata
        number = int(about.group_id) if about.group_id.isdigit() else 0
        question = (about.message_type.removeprefix("query."), number)
        return self.gone | self.mute | self.mute_at.get(question, set())

    def _step(self, what: str, message: Message) -> None:
        kind = message.metadata.message_type
        number, attempt = (0, 0) if kind == "query.advertise" else numbered(message.content)
        step = Step(
            what, kind.removeprefix("query."), number, attempt, message.metadata.dst_node_id
        )
        self.steps.append(step)
        if self._killed(step, len(self.steps)):
            raise Killed


def private_study(**tables: dict[str, Any]) -> Study:
    """Four hospitals, three of which are enough; every training is charged."""
    who = {"hospitals": 4, "min_hospitals": 3, "deadline_seconds": 0.2, "wait_seconds": 0.2}
    return study_of(**{"privacy": PRIVATE, "participation": who, **tables})


def sites_of(folder: Path, study: Study) -> Sites:
    """Hospitals whose noise and keys repeat, so that two runs can be compared bit for bit."""
    return Sites(folder, study, seed=3)


def federate(
    study: Study,
    grid: Grid,
    folder: Path | None,
    *,
    events: list[Event] | None = None,
    policy: LostRounds = PATIENT,
    **given: Any,  # noqa: ANN401 - of a federation
) -> Outcome:
    """One process of a server."""
    listener = (lambda _: None) if events is None else events.append
    given = {"run": "run", "seed": SEED, "listener": listener, **given}
    return Federation(study, grid, folder=folder, lost_rounds=policy, **given).train_and_judge()
