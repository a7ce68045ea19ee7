"""Adding up what nobody can read: advertise once, then mask and unmask in every exchange.

Whom an exchange is over, its attempts and its survivors are kept before they are asked, so that an
exchange can be repeated: by the same process after a wait, or by another after this one was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from flwr.app import RecordDict
from flwr.serverapp import Grid

from fedward.privacy.advert import Advert, unpack
from fedward.privacy.contribution import Layout
from fedward.privacy.encoding import Encoding
from fedward.privacy.protocol_errors import ProtocolError, TooFew
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Attempt, UnmaskRequest
from fedward.server.asked import Asked, AskedBefore
from fedward.server.exchange import Heard, Heed, exchange, go_on
from fedward.server.summing import (
    Gathered,
    Hear,
    another_answer,
    message_type,
    too_few,
    too_few_connected,
)
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
_NOWHERE = 0  # no node's number
_ADVERT_SECONDS = 60.0  # for an advert once the run is under way: no round waits longer for one


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

    def __init__(
        self,
        study: Study,
        grid: Grid,
        *,
        run: str,
        asked: AskedBefore | None = None,
        heed: Heed = go_on,
    ) -> None:
        """Take the study's terms, and the way to the hospitals.

        Args:
            study: The contract.
            grid: The way to the hospitals.
            run: Name of the run.
            asked: What an earlier process of this run asked last.
            heed: Called again and again during an exchange; what it raises ends it.
        """
        self._study = study
        self._digest = study.digest()
        self._grid = grid
        self._run = run
        self._asked = AskedBefore() if asked is None else asked
        self._heed = heed
        self._begun = False
        self._members: dict[int, _Member] = {}
        self._stale: set[int] = set()
        self._declined: dict[int, Refusal] = {}
        self._allowed: frozenset[str] | None = None

    def begin(self, nodes: Sequence[int]) -> list[Refusal]:
        """Ask those for their adverts that have none yet; without one a node takes no part.

        Who left is forgotten, and so is the advert of a hospital that said that the protocol was
        not kept to: it may have lost its key.
        """
        stays = {n: m for n, m in self._members.items() if n in nodes and n not in self._stale}
        self._members = stays
        self._stale.clear()
        query = pack_request(AdvertiseQuery(self._digest, self._run))
        names = {member.name for member in stays.values()}

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

        silent = [node for node in nodes if node not in stays]
        refusals = dict[int, Refusal]()
        limit = _ADVERT_SECONDS if self._begun else None
        for _ in range(1 if self._begun else _MOST_ASKS):
            if not silent:
                break
            contents = dict.fromkeys(silent, query)
            came = self._exchange(contents, ADVERTISE, take, number=0, limit=limit)
            refusals |= came.refusals
            silent = came.silent
        self._begun = True
        news = [r for node, r in refusals.items() if self._declined.get(node) != r]
        self._declined = refusals
        return news

    def allow(self, names: Collection[str]) -> None:
        """Only these hospitals are asked from now on."""
        self._allowed = frozenset(names)

    def able(self, nodes: Sequence[int]) -> list[int]:
        """Those that advertised, and are allowed."""
        return [node for node in nodes if node in self._members and self._may(self._members[node])]

    def begun(self, number: int) -> bool:
        """Whether hospitals may have answered this exchange."""
        return self._asked.read(number) is not None

    def lacking(self, nodes: Sequence[int]) -> str:
        """Too few members, for the study or for the shares that a sum needs."""
        able, fewest = len(self.able(nodes)), self._study.participation.fewest
        try:
            needed = max(fewest, self._threshold(able))
        except ValueError as error:
            return str(error)
        if able >= needed:
            return ""
        said = [f"{refusal.hospital}: {refusal.what}" for refusal in self._declined.values()]
        return "; ".join([too_few_connected(able, needed), *said[:1]])

    def _may(self, member: _Member) -> bool:
        return self._allowed is None or member.name in self._allowed

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
        invited, asked, before = self._invited(nodes, request.round)
        bound = before.survivors
        gathered, refused = Gathered(), dict[int, Refusal]()
        already: set[str] = set()
        gathered.attempts = max(1, before.attempt)

        def hear_once(name: str) -> None:
            if name not in already:
                already.add(name)
                heard(name)

        for number in range(before.attempt + 1, before.attempt + 1 + _MOST_ATTEMPTS):
            needed = max(len(bound), who.fewest)
            if len(asked) < needed:  # too few may still answer, or one of the bound is not there
                gathered.why = gathered.why or too_few_connected(len(asked), needed)
                break
            tried = self._attempt(number, invited, asked, request, code, bound, hear_once)
            gathered.attempts = number
            refused |= tried.refusing
            gathered.why = tried.why
            there = tried.refusing.keys() | {m.node for m in asked if m.name in tried.survivors}
            gathered.absent = {member.node for member in asked} - there
            if tried.words is not None:
                gathered.total = code.decode(tried.words)
                gathered.each = [gathered.total]
                gathered.answered = list(tried.survivors)
                break
            asked = [member for member in asked if member.node not in tried.refusing]
            if tried.settled:
                bound = tried.survivors
                asked = [member for member in asked if member.name in tried.survivors]
        gathered.refusals = list(refused.values())
        heard_of = {m.node for m in invited if m.name in gathered.answered} | refused.keys()
        # Whom a repeated exchange is over was settled long before these nodes were looked up.
        among = len(invited) if before.attempt else len(set(nodes) | heard_of)
        gathered.silent = among - len(heard_of)
        self._learn(gathered, request.round, refused)
        return gathered

    def _invited(
        self, nodes: Sequence[int], number: int
    ) -> tuple[list[_Member], list[_Member], Asked]:
        """Whom an exchange is over, who of them is asked now, and what was asked before.

        A repeated exchange is over those who were invited at first, also if one of them left: it
        counts as silent. Once they were asked to unmask, only the survivors are of use.
        """
        before = self._asked.read(number)
        if before is None:
            invited = [self._members[node] for node in self.able(nodes)]
            return invited, invited, Asked(number, tuple(m.packed for m in invited), 0)
        here = {member.packed: member for member in self._members.values()}
        invited = [here.get(packed) or _absent(packed) for packed in before.adverts]
        asked = [m for m in invited if m.packed in here and self._may(m)]
        if before.survivors:
            asked = [member for member in asked if member.name in before.survivors]
        return invited, asked, before

    def _learn(self, gathered: Gathered, number: int, refused: dict[int, Refusal]) -> None:
        """What the outcome means for the next time.

        A hospital that says that the protocol was not kept to will say so again in this exchange:
        it lost what it would have to answer with, or it answered for others.
        """
        never = {n for n, refusal in refused.items() if refusal.error == ProtocolError.__name__}
        self._stale |= never
        asked = self._asked.read(number)
        gathered.fixed = asked is not None
        if gathered.total is not None or asked is None:
            return
        names = [unpack(packed).hospital for packed in asked.adverts]
        gone = {self._members[node].name for node in never if node in self._members}
        if self._allowed is not None:
            gone |= set(names) - self._allowed
        if asked.survivors:
            gathered.hopeless = bool(gone & set(asked.survivors))
        else:
            needed = max(self._threshold(len(names)), self._study.participation.fewest)
            gathered.hopeless = len(set(names) - gone) < needed

    def _threshold(self, hospitals: int) -> int:
        terms = self._study.aggregation
        return shares_needed(
            hospitals=hospitals, colluding=terms.colluding, min_honest=terms.min_honest
        )

    def _attempt(
        self,
        number: int,
        invited: Sequence[_Member],
        asked: Sequence[_Member],
        request: Request,
        code: Encoding,
        bound: tuple[str, ...],
        heard: Hear,
    ) -> _Tried:
        fewest = self._study.participation.fewest
        try:
            threshold = self._threshold(len(invited))
        except ValueError as error:
            return _Tried(why=str(error))
        attempt = Attempt(
            self._digest, self._run, request.round, number, b"", tuple(m.advert for m in invited)
        )
        running = SecureSum(attempt, size=code.size, threshold=threshold)
        names = {member.node: member.name for member in asked}
        invitation = Invitation(number, tuple(member.packed for member in invited))
        about = Asked(request.round, invitation.adverts, number, bound)
        self._asked.write(about)
        came = self._ask_to_mask(request, invitation, names, running, code.size, heard)
        tried = _Tried(survivors=running.survivors, refusing=dict(came.refusals))
        needed = max(threshold, fewest, len(bound))
        if len(tried.survivors) < needed:
            tried.why = too_few(len(tried.survivors), needed)
            return tried
        nodes = {name: node for node, name in names.items()}
        try:
            asks = running.unmask_requests()
            tried.settled = True
            self._asked.write(replace(about, survivors=tried.survivors))
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
        limit: float | None = None,
    ) -> Heard:
        deadline = self._study.participation.deadline_seconds
        return exchange(
            self._grid,
            contents,
            kind,
            take,
            group=str(number),
            size=size,
            deadline=deadline if limit is None else min(deadline, limit),
            heed=self._heed,
        )


def _absent(packed: bytes) -> _Member:
    """Somebody who was invited and is not connected now."""
    advert = unpack(packed)
    return _Member(_NOWHERE, advert.hospital, packed, advert)
