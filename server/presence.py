"""Which hospitals are there for an exchange, and which of them are asked."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from flwr.serverapp import Grid

from fedward.server.exchange import Heed
from fedward.server.members import Members
from fedward.server.offering import Offering
from fedward.server.summing import Summing
from fedward.study.messages import Refusal
from fedward.study.participation import Participation

_LOOK_AGAIN = 0.2  # seconds between looks at who is connected

Note = Callable[[int, Sequence[Refusal]], None]
Awaited = Callable[[int, str], None]


class Presence:
    """Those that are connected, have approved the study, and can take part."""

    def __init__(
        self,
        who: Participation,
        grid: Grid,
        summing: Summing,
        *,
        seed: int,
        members: Callable[[], Members | None],
        offering: Offering,
        heed: Heed,
        note: Note,
    ) -> None:
        """Nobody has been looked for yet.

        Args:
            who: The study's.
            grid: The way to the hospitals.
            summing: Knows who can take part in a sum.
            seed: Of who is invited.
            members: Who may take part; everybody if it gives None.
            offering: Knows who has approved the study.
            heed: Called again and again; what it raises ends the run.
            note: Told what those say that cannot take part.
        """
        self._who = who
        self._grid = grid
        self._summing = summing
        self._seed = seed
        self._members = members
        self._offering = offering
        self._heed = heed
        self._note = note
        self._fresh = False
        self.nodes: list[int] = []

    @property
    def waiting_for(self) -> str:
        """What the others do not do that are not there; may be empty."""
        return self._offering.waiting_for

    def look(self, number: int) -> None:
        """See who is there for an exchange, unless that was just seen."""
        if not self._fresh:
            self._look_around(number)
        self._fresh = False

    def wait(
        self,
        number: int,
        *,
        most: float,
        enough: bool,
        awaited: Awaited = lambda ready, why: None,
    ) -> int:
        """Wait until all of the study's hospitals are there.

        Args:
            number: Of the exchange that they are waited for.
            most: Seconds.
            enough: Whether those that are there by then are enough.
            awaited: Told how many are ready while others are not, and why, whenever it changes.

        Returns:
            How many there are; fewer than the study's hospitals if the time is over.
        """
        last = time.monotonic() + most
        told: tuple[int, str] | None = None
        while (count := len(self._approving())) < self._who.hospitals:
            if time.monotonic() > last:
                if enough:
                    break
                return count
            if told != (now := (count, self.waiting_for)):
                told = now
                awaited(*now)
            self.sleep(_LOOK_AGAIN)
        self._look_around(number)
        self._fresh = True
        return count

    def invited(self, server_round: int) -> list[int]:
        """Who is asked to train in a round; the same seed invites the same."""
        asked = self._who.asked
        if asked >= len(self.nodes):
            return self.nodes
        chosen = random.Random(f"{self._seed}/{server_round}").sample(self.nodes, asked)  # noqa: S311 - who is invited is no secret
        return sorted(chosen)

    def sleep(self, seconds: float) -> None:
        """Wait, as long as nothing ends the run."""
        last = time.monotonic() + seconds
        self._heed()
        while (left := last - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_AGAIN))
            self._heed()

    def _look_around(self, number: int) -> None:
        members = self._members()
        if members is not None:
            self._summing.allow(members.names)
        present = self._approving()
        self._note(number, self._summing.begin(present))
        wanted = self._who.hospitals
        able = present if len(present) <= wanted else self._summing.able(present)
        others = [node for node in present if node not in able]
        self.nodes = sorted([*able, *others][:wanted])

    def _approving(self) -> list[int]:
        """Those that are connected and whose hospital has approved the study."""
        return self._offering.approving(sorted(self._grid.get_node_ids()))
