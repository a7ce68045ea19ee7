"""When a run does not go on: an exchange that cannot succeed, or rounds that were lost in a row."""

from __future__ import annotations

from collections.abc import Sequence

from fedward.server.events import RoundFinished, RoundLost
from fedward.server.lost_rounds import LostRounds
from fedward.server.run_errors import RunPaused
from fedward.server.summing import Gathered
from fedward.study.errors import FederationError, RefusedError


class GivingUp:
    """Raises where asking again does not help; the error pauses a run that people can take up."""

    def __init__(self, policy: LostRounds, *, fewest: int) -> None:
        """Take how patient the run is, and the fewest hospitals with which a round counts."""
        self._policy = policy
        self._fewest = fewest

    def stop(self, what: str, *, todo: str, where: str = "") -> FederationError:
        """The error that ends the run for now."""
        kind = RunPaused if self._policy.pauses else FederationError
        return kind(what, todo=todo, where=where)

    def too_few(self, where: str, why: str) -> FederationError:
        """The error for an exchange that too few hospitals answered."""
        return self.stop(f"{where}: {why}", todo=_MORE)

    def stop_if_refused(self, gathered: Gathered, where: str, asked: int) -> None:
        """Asking again does not help where so many hospitals said no that too few are left.

        In a deployment only a person's no counts; what went wrong by itself may go well again.

        Args:
            gathered: What came.
            where: The exchange, for people.
            asked: How many hospitals were.

        Raises:
            FederationError: It is so.
        """
        said = gathered.refusals
        if self._policy.pauses:
            said = [refusal for refusal in said if refusal.error in _says_no()]
        if asked - len(said) >= self._fewest:
            return
        if not said:
            return
        others = len(said) - 1
        more = f" (and {others} more refusals)" if others else ""
        raise self.stop(
            f"{where}: {said[0].what}{more}",
            todo=said[0].todo or "see that hospital's log",
            where=f"hospital {said[0].hospital}",
        )

    def stop_if_hopeless(
        self, rounds: Sequence[RoundFinished | RoundLost], *, taken_up: bool = False
    ) -> None:
        """A run whose last rounds were all lost does not get better by going on.

        Args:
            rounds: All so far.
            taken_up: Whether a person has just taken it up again.

        Raises:
            FederationError: It is so.
        """
        most = self._policy.most_lost
        latest = [record for record in rounds[-most:] if isinstance(record, RoundLost)]
        if not latest or len(latest) < len(rounds[-most:]):
            return
        last = latest[-1]
        where = f"round {last.round}"
        if last.round == last.rounds and len(latest) == len(rounds):
            raise FederationError(f"{where}: {last.why}", todo=_MORE)
        at_the_end = last.round == last.rounds and not self._policy.pauses
        if at_the_end or (len(latest) == most and not taken_up and last.round != last.rounds):
            raise self.too_few(where, last.why)


_MORE = "raise [participation] deadline_seconds, or lower min_hospitals"


def _says_no() -> set[str]:
    """Names of the errors that say that a hospital will not."""
    kinds: list[type[Exception]] = [RefusedError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.__name__ for kind in kinds}
