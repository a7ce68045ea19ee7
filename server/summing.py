"""How the answers of one exchange become a sum: in the clear, where a study says so, or masked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from flwr.serverapp import Grid

from fedward.privacy.contribution import Layout, Total
from fedward.privacy.plain_sum import EachApart, PlainSum
from fedward.server.exchange import Heed, exchange, go_on
from fedward.study.aggregation import Robust
from fedward.study.errors import FederationError
from fedward.study.messages import (
    EVALUATE,
    MEASURE,
    TRAIN,
    Answer,
    Contribution,
    MeasureRequest,
    Refusal,
    Request,
    TrainRequest,
)
from fedward.study.study import Study
from fedward.study.wire import pack_request

Hear = Callable[[str], None]


@dataclass
class Gathered:
    """What came of one exchange.

    Attributes:
        total: The sum over the hospitals that answered; None if there are too few for one.
        each: What the server's optimizer is given: the mean, or single contributions.
        answered: Their names.
        refusals: What others said.
        silent: How many said nothing until the deadline, or could not be reached.
        attempts: How often it was tried.
        why: Why there is no sum.
        fixed: Whether asking again must be over the same hospitals.
        hopeless: Whether asking again can come to no sum, whoever comes back.
        absent: Nodes that did not answer when they were asked last.
    """

    total: Total | None = None
    each: list[Total] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    silent: int = 0
    attempts: int = 1
    why: str = ""
    fixed: bool = False
    hopeless: bool = False
    absent: set[int] = field(default_factory=set)


class Summing(Protocol):
    """One way of adding up."""

    def begin(self, nodes: Sequence[int]) -> list[Refusal]:
        """Prepare an exchange with these nodes, which are all that are connected now.

        Returns:
            What those that cannot take part say, if they have not said it before.
        """

    def allow(self, names: Collection[str]) -> None:
        """Only these hospitals take part from now on; all do before this is called."""

    def able(self, nodes: Sequence[int]) -> list[int]:
        """Those of these nodes that can take part."""

    def begun(self, number: int) -> bool:
        """Whether this exchange was asked before: then it is repeated over the same hospitals."""

    def lacking(self, nodes: Sequence[int]) -> str:
        """Why an exchange with these nodes could come to no sum; empty if it could."""

    def gather(
        self, nodes: Sequence[int], request: Request, layout: Layout, *, heard: Hear
    ) -> Gathered:
        """Ask these nodes and add their answers up.

        What was asked before, by this process or an earlier one, is asked again over the hospitals
        that were invited then, whatever nodes are given.

        Args:
            nodes: Whom to ask.
            request: What to ask.
            layout: Blocks of a contribution.
            heard: Called with a hospital's name when its contribution was added.
        """


class PlainSumming:
    """Contributions are added in the clear as they come, and dropped."""

    def __init__(self, study: Study, grid: Grid, *, heed: Heed = go_on) -> None:
        """Take the study's terms, the way to the hospitals, and what may end an exchange."""
        self._heed = heed
        self._allowed: frozenset[str] | None = None
        self._who = study.participation
        self._kind = EachApart if isinstance(study.aggregation, Robust) else PlainSum
        self._grid = grid

    def begin(self, nodes: Sequence[int]) -> list[Refusal]:
        """Nothing is to be prepared."""
        return []

    def allow(self, names: Collection[str]) -> None:
        """Answers of others are left out from now on."""
        self._allowed = frozenset(names)

    def able(self, nodes: Sequence[int]) -> list[int]:
        """All of them: who a node is, only its answer says."""
        return list(nodes)

    def begun(self, number: int) -> bool:
        """Every repetition is a new exchange."""
        return False

    def lacking(self, nodes: Sequence[int]) -> str:
        """Too few nodes."""
        fewest = self._who.fewest
        return "" if len(nodes) >= fewest else too_few_connected(len(nodes), fewest)

    def gather(
        self, nodes: Sequence[int], request: Request, layout: Layout, *, heard: Hear
    ) -> Gathered:
        """Ask these nodes and add their answers up."""
        running = self._kind(layout)
        answered: list[str] = []

        def take(node: int, answer: Answer) -> None:
            if not isinstance(answer, Contribution):
                raise another_answer()
            if self._allowed is not None and answer.hospital not in self._allowed:
                raise FederationError(
                    "is not in the consortium's roster; its answer was left out",
                    todo="ask the consortium's coordinator",
                )
            if answer.hospital in answered:
                raise FederationError(
                    "has answered already under this name; a second answer was left out",
                    todo="ask who runs two hospitals of one name",
                )
            running.add(answer.vector)
            answered.append(answer.hospital)
            heard(answer.hospital)

        came = exchange(
            self._grid,
            dict.fromkeys(nodes, pack_request(request)),
            message_type(request),
            take,
            group=str(request.round),
            size=layout.size,
            deadline=self._who.deadline_seconds,
            heed=self._heed,
        )
        enough = len(answered) >= self._who.fewest
        return Gathered(
            total=running.total() if enough else None,
            each=running.each() if enough else [],
            answered=answered,
            refusals=list(came.refusals.values()),
            silent=len(came.silent),
            why="" if enough else too_few(len(answered), self._who.fewest),
        )


def message_type(request: Request) -> str:
    """Flower's type of a request."""
    if isinstance(request, MeasureRequest):
        return MEASURE
    return TRAIN if isinstance(request, TrainRequest) else EVALUATE


def too_few(answered: int, needed: int) -> str:
    """Why there is no sum."""
    return f"{answered} hospitals answered in time, {needed} are needed"


def too_few_connected(able: int, needed: int) -> str:
    """Why nobody is asked."""
    return f"{able} hospitals are connected and can take part, {needed} are needed"


def another_answer() -> FederationError:
    """The error for an answer of another kind than was asked for."""
    return FederationError(
        "gave another kind of answer than was asked for; it was left out",
        todo="run the same version of fedward on both sides",
    )
