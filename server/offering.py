"""Who of those that are connected has approved the study."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from flwr.serverapp import Grid

from fedward.server.exchange import Heed, exchange, go_on
from fedward.server.summing import another_answer
from fedward.study.messages import OFFER, Answer, Considered, OfferQuery, Refusal
from fedward.study.study import Study
from fedward.study.wire import pack_request

_SECONDS = 30.0  # for an answer: nobody has to think, a person approves in their own time
_AGAIN = 5.0  # seconds until a hospital that has not approved is asked again


class Offering(Protocol):
    """What hospitals are told before a run asks anything of them."""

    def approving(self, nodes: Sequence[int]) -> list[int]:
        """Those of these nodes whose hospital has approved the study."""

    @property
    def waiting_for(self) -> str:
        """Why the others have not, as far as they said; may be empty."""


class NoOffer:
    """Where studies are approved beforehand, as in a simulation, everybody counts."""

    waiting_for = ""

    def approving(self, nodes: Sequence[int]) -> list[int]:
        """All of them."""
        return list(nodes)


class SignedOffer:
    """A study and a roster that the coordinator signed, offered to every hospital.

    A newer roster is offered again to everybody, before anything else is asked.
    """

    def __init__(
        self,
        study: Study,
        signed: bytes,
        grid: Grid,
        *,
        run: str,
        roster: Callable[[], bytes],
        heed: Heed = go_on,
    ) -> None:
        """Prepare the offer.

        Args:
            study: The contract, settled.
            signed: The same as the coordinator signed it.
            grid: The way to the hospitals.
            run: Name of the run.
            roster: Gives the newest roster's document.
            heed: Called again and again during an exchange; what it raises ends it.
        """
        self._digest = study.digest()
        self._signed = signed
        self._grid = grid
        self._run = run
        self._roster = roster
        self._heed = heed
        self._offered = b""
        self._approved: set[int] = set()
        self._undecided: dict[int, str] = {}
        self._refusals: dict[int, Refusal] = {}
        self._due: dict[int, float] = {}

    def approving(self, nodes: Sequence[int]) -> list[int]:
        """Those of these nodes whose hospital has approved the study; the others are asked."""
        roster = self._roster()
        if roster != self._offered:
            self._offered = roster
            self._approved.clear()
            self._due.clear()
        self._approved &= set(nodes)  # who comes back may have changed its mind
        now = time.monotonic()
        asked = [n for n in nodes if n not in self._approved and now >= self._due.get(n, 0.0)]
        if asked:
            self._ask(asked, roster)
        return [node for node in nodes if node in self._approved]

    @property
    def waiting_for(self) -> str:
        """The hospitals that have not approved yet, and what one of them said against it."""
        said = [f"{refusal.hospital}: {refusal.what}" for refusal in self._refusals.values()]
        names = ", ".join(sorted(self._undecided.values()))
        return "; ".join([*([f"not approved yet at {names}"] if names else []), *said[:1]])

    def _ask(self, nodes: Sequence[int], roster: bytes) -> None:
        def take(node: int, answer: Answer) -> None:
            if not isinstance(answer, Considered):
                raise another_answer()
            self._undecided.pop(node, None)
            if answer.approved:
                self._approved.add(node)
            else:
                self._undecided[node] = answer.hospital

        query = pack_request(OfferQuery(self._digest, self._run, self._signed, roster))
        came = exchange(
            self._grid,
            dict.fromkeys(nodes, query),
            OFFER,
            take,
            group="offer",
            deadline=_SECONDS,
            heed=self._heed,
        )
        for node in nodes:
            self._refusals.pop(node, None)
            self._due[node] = time.monotonic() + _AGAIN
        self._refusals.update(came.refusals)
