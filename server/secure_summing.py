"""Adding up what nobody can read: advertise once, then mask and unmask in every exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedward.privacy.advert import Advert, unpack
from fedward.privacy.contribution import Layout
from fedward.privacy.encoding import Encoding
from fedward.privacy.protocol_errors import ProtocolError, TooFew
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Attempt, UnmaskRequest
from fedward.server.exchange import Heard, exchange
from fedward.server.summing import Gathered, Hear, another_answer, message_type, too_few
from fedward.study.errors import FederationError
from fedward.study.messages import (
    ADVERTISE,
    UNMASK,
    Advertised,
    AdvertiseQuery,
    Answer,
    Invitation,
    MaskedContribution,
    Refusal,
    Request,
    TrainRequest,
    Unmasked,
    UnmaskQuery,
    Words,
)
from fedward.study.study import Study
from fedward.study.threshold import shares_needed
from fedward.study.wire import pack_request

_MOST_ATTEMPTS = 5
_MOST_ASKS = 3  # for one advert; for one survivor's help, before a new attempt


@dataclass(frozen=True)
class _Member:
    """A node that advertised."""

    node: int
    name: str
    packed: bytes
    advert: Advert


@dataclass
class _Tried:
    """What came of one attempt.

    Attributes:
        words: The sum; None if it could not be opened.
        survivors: Those in the sum.
        refusing: Nodes that declined, and what they said.
        settled: Whether survivors were asked to unmask, which binds them to each other.
        why: Why there is no sum.
    """

    words: Words | None = None
    survivors: tuple[str, ...] = ()
    refusing: dict[int, Refusal] = field(default_factory=dict)
    settled: bool = False
    why: str = ""


class SecureSumming:
    """The aggregator's side of secure aggregation over Flower messages."""

    def __init__(self, study: Study, grid: Grid, *, run: str) -> None:
        """Take the study's terms, and the way to the hospitals."""
        self._study = study
        self._digest = study.digest()
        self._grid = grid
        self._run = run
        self._members: dict[int, _Member] = {}

    def begin(self, nodes: Sequence[int]) -> list[Refusal]:
        """Collect the run's adverts; a node that sends none takes no part."""
        query = pack_request(AdvertiseQuery(self._digest, self._run))
        names: set[str] = set()

        def take(node: int, answer: Answer) -> None:
            if not isinstance(answer, Advertised):
                raise another_answer()
            advert = unpack(answer.advert)
            if (advert.study, advert.run) != (self._digest, self._run):
                raise FederationError(
                    "advertised for another study or run",
                    todo="run the same version of fedward on both sides",
                )
            if advert.hospital != answer.hospital or advert.hospital in names:
                raise FederationError(
                    f"advertised in the name of {advert.hospital}, and somebody else has it",
                    todo="give every node its own hospital.toml",
                )
            names.add(advert.hospital)
            self._members[node] = _Member(node, advert.hospital, answer.advert, advert)

        silent, refusals = list(nodes), dict[int, Refusal]()
        for _ in range(_MOST_ASKS):  # who is not heard now takes no part in the whole run
            came = self._exchange(dict.fromkeys(silent, query), ADVERTISE, take, number=0)
            refusals |= came.refusals
            silent = came.silent
            if not silent:
                break
        return list(refusals.values())

    def gather(
        self, nodes: Sequence[int], request: Request, layout: Layout, *, heard: Hear
    ) -> Gathered:
        """Ask these nodes and add their answers up, in as many attempts as it takes.

        All attempts are over the same invited hospitals. Before anybody is asked to unmask, a new
        attempt asks everybody again; afterwards those who were asked are bound to each other, and
        only the same survivors are unmasked once more.
        """
        who = self._study.participation
        most = who.asked if isinstance(request, TrainRequest) else who.hospitals
        code = Encoding(layout, self._study.aggregation, hospitals=most)
        invited = [self._members[node] for node in nodes if node in self._members]
        asked, bound = invited, 0
        gathered, refused = Gathered(), dict[int, Refusal]()
        already: set[str] = set()

        def hear_once(name: str) -> None:
            if name not in already:
                already.add(name)
                heard(name)

        for number in range(1, _MOST_ATTEMPTS + 1):
            tried = self._attempt(number, invited, asked, request, code, bound, hear_once)
            gathered.attempts = number
            refused |= tried.refusing
            gathered.why = tried.why
            if tried.words is not None:
                gathered.total = code.decode(tried.words)
                gathered.each = [gathered.total]
                gathered.answered = list(tried.survivors)
                break
            asked = [member for member in asked if member.node not in tried.refusing]
            if tried.settled:
                bound = len(tried.survivors)
                asked = [member for member in asked if member.name in tried.survivors]
            if len(asked) < max(bound, who.fewest):
                break  # too few may still answer, or one of the bound declined: no sum can come
        gathered.refusals = list(refused.values())
        heard_of = {m.node for m in invited if m.name in gathered.answered} | refused.keys()
        gathered.silent = len(set(nodes) - heard_of)
        return gathered

    def _attempt(
        self,
        number: int,
        invited: Sequence[_Member],
        asked: Sequence[_Member],
        request: Request,
        code: Encoding,
        bound: int,
        heard: Hear,
    ) -> _Tried:
        terms, fewest = self._study.aggregation, self._study.participation.fewest
        try:
            threshold = shares_needed(
                hospitals=len(invited), colluding=terms.colluding, min_honest=terms.min_honest
            )
        except ValueError as error:
            return _Tried(why=str(error))
        attempt = Attempt(
            self._digest, self._run, request.round, number, b"", tuple(m.advert for m in invited)
        )
        running = SecureSum(attempt, size=code.size, threshold=threshold)
        names = {member.node: member.name for member in asked}
        invitation = Invitation(number, tuple(member.packed for member in invited))
        came = self._ask_to_mask(request, invitation, names, running, code.size, heard)
        tried = _Tried(survivors=running.survivors, refusing=dict(came.refusals))
        needed = max(threshold, fewest, bound)
        if len(tried.survivors) < needed:
            tried.why = too_few(len(tried.survivors), needed)
            return tried
        nodes = {name: node for node, name in names.items()}
        try:
            asks = running.unmask_requests()
            tried.settled = True
            queries = {nodes[name]: self._query(request, invitation, a) for name, a in asks.items()}
            tried.words = self._unmasked(running, queries, nodes, request.round, tried.refusing)
        except ProtocolError as error:
            tried.why = error.what
        return tried

    def _query(self, request: Request, invitation: Invitation, ask: UnmaskRequest) -> RecordDict:
        return pack_request(
            UnmaskQuery(
                self._digest, self._run, request.round, invitation, ask.survivors, ask.shares
            )
        )

    def _ask_to_mask(
        self,
        request: Request,
        invitation: Invitation,
        names: dict[int, str],
        running: SecureSum,
        size: int,
        heard: Hear,
    ) -> Heard:
        def take(node: int, answer: Answer) -> None:
            if not isinstance(answer, MaskedContribution) or answer.hospital != names[node]:
                raise another_answer()
            running.add(answer.hospital, answer.masked)
            heard(answer.hospital)

        content = pack_request(replace(request, invitation=invitation))
        contents = dict.fromkeys(names, content)
        return self._exchange(
            contents, message_type(request), take, number=request.round, size=size
        )

    def _unmasked(
        self,
        running: SecureSum,
        queries: dict[int, RecordDict],
        nodes: dict[str, int],
        number: int,
        refusing: dict[int, Refusal],
    ) -> Words:
        """The sum, after as many questions as it takes; a lost answer may be asked for again.

        Who declines is entered into `refusing`.

        Raises:
            TooFew: Too few survivors helped.
            BadShare: Their shares do not fit together.
        """

        def take(node: int, answer: Answer) -> None:
            if not isinstance(answer, Unmasked) or nodes.get(answer.hospital) != node:
                raise another_answer()
            running.take(answer.hospital, answer.unmasking)

        for _ in range(_MOST_ASKS):
            came = self._exchange(queries, UNMASK, take, number=number)
            refusing.update(came.refusals)
            queries = {node: query for node, query in queries.items() if node in came.silent}
            try:
                return running.total()
            except TooFew:
                if not queries:
                    raise
        return running.total()

    def _exchange(
        self,
        contents: dict[int, RecordDict],
        kind: str,
        take: Callable[[int, Answer], None],
        *,
        number: int,
        size: int = 0,
    ) -> Heard:
        deadline = self._study.participation.deadline_seconds
        return exchange(
            self._grid, contents, kind, take, group=str(number), size=size, deadline=deadline
        )
