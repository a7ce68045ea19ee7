"""The hospital's side of secure aggregation: a request in, an answer out, or a named refusal.

Bonawitz et al. 2017 (pairwise masks, self masks, shares), in large rounds only among neighbours
(Bell et al. 2020), with adverts signed by identities that the aggregator did not issue, and one key
agreement for a whole run. Everything that must be remembered between two requests is in the
journal; everything else is computed from the request.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from fedward.privacy.advert import Advert, RunKey, check_advert, make_advert
from fedward.privacy.identity import Identity
from fedward.privacy.journal import Journal
from fedward.privacy.key_schedule import pair_seed, round_context, seal_key, self_seed
from fedward.privacy.masks import add_masks
from fedward.privacy.neighbours import closed_neighbourhood, ring_of
from fedward.privacy.protocol_errors import BadAdvert, BadRequest, BadSeal, TooFew
from fedward.privacy.roster import Roster
from fedward.privacy.sealing import seal, unseal
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest, Words
from fedward.privacy.shamir import split
from fedward.study.threshold import neighbourhood, shares_needed

_NUMBERS = 2**63  # what the journal can hold


@dataclass(frozen=True)
class Trust:
    """Whom a hospital trusts how far, as the study says.

    Attributes:
        colluding: Hospitals that may collude with the aggregator (c).
        min_honest: Fewest honest hospitals that a revealed sum may contain (k), at least 2.
        fewest: Fewest hospitals of any kind in a sum, as the study says; the threshold may ask for
            more.
    """

    colluding: int
    min_honest: int
    fewest: int = 0

    def threshold(self, invited: int) -> int:
        """Shares that rebuild a self mask, and the fewest survivors nearby to unmask for (t)."""
        return shares_needed(
            hospitals=invited, colluding=self.colluding, min_honest=self.min_honest
        )

    def neighbourhood(self, invited: int) -> int:
        """Hospitals in a closed neighbourhood (m); everybody, up to 64."""
        return neighbourhood(invited)


class SecureHospital:
    """One hospital in one run."""

    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        run_key: RunKey,
        roster: Roster,
        trust: Trust,
        journal: Journal,
    ) -> None:
        """Take what the hospital has: its keys, the consortium's roster, the study's terms."""
        self._name = name
        self._identity = identity
        self._run_key = run_key
        self._roster = roster
        self._trust = trust
        self._journal = journal
        # A run's adverts are the same in each of its rounds: checked and agreed with once.
        self._trusted: set[tuple[str, str, Advert]] = set()
        self._agreed: dict[bytes, bytes] = {}

    def advertise(self, *, study: str, run: str) -> Advert:
        """This hospital's signed public key for a run."""
        return make_advert(self._identity, self._run_key, study=study, run=run, hospital=self._name)

    def mask(self, attempt: Attempt, words: Words) -> Masked:
        """Mask an encoded vector for one attempt, in place.

        Args:
            attempt: Whom it is masked with.
            words: The encoded contribution, shape (n,), uint32; holds the masked one afterwards.

        Raises:
            BadAdvert: An advert is forged, of another run, doubled, or this hospital's is not its.
            BadRequest: The round is no number from 0 (what is measured before the first), or the
                attempt none from 1.
            TooFew: Fewer hospitals are invited than the study's terms need.
            Replayed: This attempt was answered before, or the round was about another model, or
                over other hospitals.
        """
        threshold = self.check(attempt)
        context = _context(attempt)
        ring, near = self._neighbours(attempt)
        shared = self._agree(attempt, near)  # before a useless key can use up the attempt
        self._journal.begin(
            run=attempt.run,
            server_round=attempt.round,
            attempt=attempt.attempt,
            context=context,
            told=attempt.told,
            invited=ring,
        )
        own = self_seed()
        add_masks(words, [(own, 1), *self._pair_masks(shared, context)])
        shares = split(own, threshold=threshold, holders=len(near))
        sealed = {
            holder: self._seal_for(holder, share, shared, context)
            for holder, share in zip(near, shares, strict=True)
        }
        return Masked(words, sealed, hashlib.sha256(own).digest())

    def unmask(self, request: UnmaskRequest) -> Unmasking:
        """Help to unmask the sum over the survivors; never for two different sets of them.

        Raises:
            BadAdvert: As for `mask`.
            BadRequest: The survivors are not among the invited, or this hospital is none of them,
                or shares are missing, or nothing was masked for this attempt.
            TooFew: Fewer survivors in its closed neighbourhood than the study's terms need.
            BadSeal: A share was changed, or sealed for somebody or something else.
            Replayed: The round was unmasked before, for other survivors.
        """
        attempt = request.attempt
        threshold = self.check(attempt)
        _, near = self._neighbours(attempt)
        survivors = self._survivors(request, near, threshold)
        context = _context(attempt)
        shared = self._agree(attempt, near)
        opened = {
            sender: self._unseal_from(sender, request.shares[sender], shared, context)
            for sender in near
            if sender in survivors
        }
        self._journal.unmask(context=context, survivors=survivors)
        dropped = [name for name in near if name not in survivors]
        seeds = {name: pair_seed(shared[name], context, self._name, name) for name in dropped}
        return Unmasking(self_shares=opened, pair_seeds=seeds)

    def told(self, *, run: str, server_round: int, attempt: int) -> bytes:
        """Digest of what this hospital was told when it masked for an attempt.

        Raises:
            BadRequest: Nothing was masked for it.
        """
        return self._journal.told(run=run, server_round=server_round, attempt=attempt)

    def admit(self, attempt: Attempt) -> None:
        """Accept an attempt by returning, before any work is done for it: work may cost privacy.

        Raises:
            ProtocolError: As for `mask`.
        """
        self.check(attempt)
        ring, near = self._neighbours(attempt)
        self._agree(attempt, near)
        self._journal.check(
            run=attempt.run,
            server_round=attempt.round,
            attempt=attempt.attempt,
            told=attempt.told,
            invited=ring,
        )

    def reserve(self, attempt: Attempt) -> None:
        """Begin the round's work: once, whatever becomes of it.

        Raises:
            Replayed: It was begun before, or a later round was.
        """
        self._journal.reserve(run=attempt.run, server_round=attempt.round)

    def check(self, attempt: Attempt) -> int:
        """The attempt's threshold, if it holds together.

        Raises:
            BadAdvert: As for `mask`.
            BadRequest: As for `mask`.
            TooFew: As for `mask`.
        """
        if not (0 <= attempt.round < _NUMBERS and 1 <= attempt.attempt < _NUMBERS):
            raise BadRequest("no such round or attempt", todo="see the aggregator's log")
        for advert in attempt.adverts:
            if (attempt.study, attempt.run, advert) not in self._trusted:
                check_advert(advert, self._roster, study=attempt.study, run=attempt.run)
                self._trust_advert(attempt, advert)
        names = attempt.invited
        if len(set(names)) != len(names):
            raise BadAdvert("a hospital is invited twice", todo="see the aggregator's log")
        own = [a for a in attempt.adverts if a.hospital == self._name]
        if len(own) != 1 or own[0].public_key != self._run_key.public:
            raise BadAdvert("this hospital is not invited with its own key", todo="advertise again")
        self._refuse_few(len(names), "are invited")
        try:
            return self._trust.threshold(len(names))
        except ValueError as error:
            raise TooFew(str(error), todo="invite more hospitals") from None

    def _neighbours(self, attempt: Attempt) -> tuple[bytes, tuple[str, ...]]:
        """The attempt's ring, and this hospital's closed neighbourhood on it."""
        size = self._trust.neighbourhood(len(attempt.adverts))
        ring = ring_of(attempt)
        return ring, closed_neighbourhood(self._name, attempt.invited, ring=ring, size=size)

    def _survivors(
        self, request: UnmaskRequest, near: Collection[str], threshold: int
    ) -> frozenset[str]:
        survivors = frozenset(request.survivors)
        invited = set(request.attempt.invited)
        if len(survivors) != len(request.survivors) or not survivors <= invited:
            raise BadRequest("survivors who were not invited", todo="see the aggregator's log")
        left = survivors.intersection(near)
        if self._name not in left or set(request.shares) != left:
            raise BadRequest(
                "asked to unmask without this hospital, or without the survivors' shares",
                todo="see the aggregator's log",
            )
        self._refuse_few(len(survivors), "survived")
        if len(left) < threshold:
            raise TooFew(
                f"{len(left)} survivors of {len(near)}, the study's terms need {threshold}",
                todo="the aggregator must repeat the round",
            )
        return survivors

    def _refuse_few(self, hospitals: int, what: str) -> None:
        if hospitals < self._trust.fewest:
            raise TooFew(
                f"{hospitals} hospitals {what}, the study wants {self._trust.fewest}",
                todo="see the aggregator's log",
            )

    def _agree(self, attempt: Attempt, near: Collection[str]) -> dict[str, bytes]:
        """The secret shared with each hospital nearby, this one included."""
        keys = {advert.hospital: advert.public_key for advert in attempt.adverts}
        return {name: self._agree_with(keys[name]) for name in near}

    def _agree_with(self, public_key: bytes) -> bytes:
        if public_key not in self._agreed:
            if len(self._agreed) > 2 * len(self._roster.members):  # members may sign without end
                self._agreed.clear()
            self._agreed[public_key] = self._run_key.agree(public_key)
        return self._agreed[public_key]

    def _trust_advert(self, attempt: Attempt, advert: Advert) -> None:
        if len(self._trusted) > 2 * len(self._roster.members):
            self._trusted.clear()
        self._trusted.add((attempt.study, attempt.run, advert))

    def _pair_masks(self, shared: Mapping[str, bytes], context: bytes) -> list[tuple[bytes, int]]:
        """A pair's masks cancel: the hospital whose name comes first adds, the other subtracts."""
        return [
            (pair_seed(secret, context, self._name, other), 1 if self._name < other else -1)
            for other, secret in sorted(shared.items())
            if other != self._name
        ]

    def _seal_for(
        self, holder: str, share: bytes, shared: Mapping[str, bytes], context: bytes
    ) -> bytes:
        key = seal_key(shared[holder], context, self._name, holder)
        return seal(key, share, bound_to=context)

    def _unseal_from(
        self, sender: str, token: bytes, shared: Mapping[str, bytes], context: bytes
    ) -> bytes:
        key = seal_key(shared[sender], context, sender, self._name)
        try:
            return unseal(key, token, bound_to=context)
        except BadSeal as error:
            raise BadSeal(f"the share of {sender}: {error.what}", todo=error.todo) from None


def _context(attempt: Attempt) -> bytes:
    return round_context(
        study=attempt.study,
        run=attempt.run,
        round=attempt.round,
        attempt=attempt.attempt,
        adverts=attempt.adverts,
        told=attempt.told,
    )
