"""Real hospitals behind a grid that loses, changes and doubles messages as a test tells it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode

from fedward.privacy.contribution import Total
from fedward.privacy.plain_sum import PlainSum
from fedward.server.secure_summing import SecureSumming
from fedward.server.summing import Gathered
from fedward.study.messages import (
    AdvertiseQuery,
    Answer,
    Contribution,
    OfferQuery,
    Query,
    Refusal,
    Request,
    TrainRequest,
)
from fedward.study.wire import (
    pack_answer,
    unpack_advertise_query,
    unpack_evaluate_request,
    unpack_train_request,
    unpack_unmask_query,
)
from tests.secure_sites import PRIVATE, Run, Sites, study_of
from tests.server.conftest import PostBox

UNPACK: dict[str, Callable[[RecordDict], Request | Query]] = {
    "query.advertise": unpack_advertise_query,
    "train": unpack_train_request,
    "evaluate": unpack_evaluate_request,
    "query.unmask": unpack_unmask_query,
}
NODES = (1, 2, 3, 4)
ABCD = ("a", "b", "c", "d")


class Asked(NamedTuple):
    """One question on its way to a hospital; `time` counts from 1 how often it was asked."""

    exchange: str
    hospital: str
    round: int = 0
    attempt: int = 0
    time: int = 1


Change = Callable[[Answer], Answer]
Fate = str | Change | None
"""What becomes of a question: "lost", "answer lost", "silence", "twice", a change, or nothing."""


@dataclass
class Ward:
    """Four hospitals behind one grid, and their likes that add up in the clear.

    Attributes:
        fate: Decides over every question.
        asked: Every question, in order.
        heard: Whose contribution was reported, in order.
    """

    run: Run
    plain: Run
    fate: Callable[[Asked], Fate] = lambda asked: None
    asked: list[Asked] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    late: list[Message] = field(default_factory=list)

    @cached_property
    def grid(self) -> PostBox:
        return PostBox(self.post, nodes=len(self.run.sites.names))

    @cached_property
    def summing(self) -> SecureSumming:
        return SecureSumming(self.run.study, self.grid, run=self.run.name)

    def post(self, message: Message) -> list[Message]:
        kind = message.metadata.message_type
        name = self.run.sites.names[message.metadata.dst_node_id - 1]
        request = UNPACK[kind](message.content)
        asked = Asked(kind.removeprefix("query."), name)
        if not isinstance(request, AdvertiseQuery | OfferQuery):
            assert request.invitation is not None
            asked = asked._replace(round=request.round, attempt=request.invitation.attempt)
        asked = asked._replace(time=1 + sum(a._replace(time=1) == asked for a in self.asked))
        self.asked.append(asked)
        fate, late = self.fate(asked), self.late
        self.late = []
        if fate == "silence":
            return late
        lost = Message(Error(ErrorCode.NODE_UNAVAILABLE, "lost"), reply_to=message)
        if fate == "lost":
            return [*late, lost]
        answer = self.run.sites[name].answer(lambda: request)
        changed = fate(answer) if callable(fate) else answer
        reply = Message(pack_answer(changed), reply_to=message)
        if fate == "late":
            self.late = [reply]
            return [*late, lost]
        if fate == "answer lost":
            return [*late, lost]
        return [*late, reply, reply] if fate == "twice" else [*late, reply]

    def begin(self) -> list[Refusal]:
        return self.summing.begin(NODES[: len(self.run.sites.names)])

    def gather(self, request: Request, nodes: Sequence[int] = NODES) -> Gathered:
        return self.summing.gather(
            nodes, request, self.run.layout(request), heard=self.heard.append
        )

    def request(self, number: int = 1) -> TrainRequest:
        """What the federation asks for: without an invitation."""
        study = self.run.study.digest()
        return TrainRequest(study, self.run.name, number, self.run.model, "validation")

    def expected(self, request: Request, names: Sequence[str]) -> Total:
        """The sum over these, in the clear, of hospitals that share their seed with ours."""
        total = PlainSum(self.run.layout(request))
        asked = replace(request, study=self.plain.study.digest())
        for name in names:
            answer = self.plain.sites[name].answer(lambda: asked)
            assert isinstance(answer, Contribution), answer
            total.add(answer.vector)
        return total.total()

    def times(self, exchange: str, hospital: str, number: int = 1) -> int:
        """How often a hospital was asked in a round."""
        return sum(a[:3] == (exchange, hospital, number) for a in self.asked)

    def holds(self, gathered: Gathered, names: Sequence[str], number: int = 1) -> None:
        """The sum is that over exactly these hospitals, and says so."""
        total, expected = gathered.total, self.expected(self.request(number), names)
        assert total is not None, gathered.why
        assert sorted(gathered.answered) == sorted(names)
        assert total.weight == expected.weight == 20 * len(names)  # the declared records
        assert np.array_equal(np.delete(total.metrics, 1), np.delete(expected.metrics, 1))
        assert total.metrics[1] == pytest.approx(expected.metrics[1], rel=1e-6)
        # A rounding a hospital of at most 64 * 10 / floor((2**31 - 1) / 4), and float32's.
        step = len(names) * 64 * 10 / ((2**31 - 1) // 4) / total.weight
        wrong = np.abs(total.update - expected.update).max()
        assert wrong <= step + np.abs(expected.update).max() * 2**-22
        assert gathered.each == [total]


def ward_in(folder: Path) -> Ward:
    """Four hospitals, three of which are enough; every training is charged."""
    tables: dict[str, dict[str, Any]] = {
        "privacy": PRIVATE,
        "participation": {"hospitals": 4, "min_hospitals": 3, "deadline_seconds": 20.0},
    }
    secure = study_of(**tables)
    clear = study_of(**tables, aggregation={"secure": False})
    return Ward(
        Run(Sites(folder / "secure", secure, seed=3), secure),
        Run(Sites(folder / "clear", clear, seed=3), clear),
    )


def when(*fates: tuple[Fate, dict[str, object]]) -> Callable[[Asked], Fate]:
    """The first fate whose conditions hold; a set of values holds if one of them does."""

    def holds(asked: Asked, conditions: dict[str, object]) -> bool:
        for key, wanted in conditions.items():
            value = getattr(asked, key)
            if value not in wanted if isinstance(wanted, set | range) else value != wanted:
                return False
        return True

    return lambda asked: next((fate for fate, given in fates if holds(asked, given)), None)
