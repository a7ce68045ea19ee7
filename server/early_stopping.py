"""Early stopping: from the sums of a round's monitoring to whether there is another round.

A round's request carries the model of the round before and brings its metric back, so a round's
model is known one round later. The first model, which nobody has trained, is no candidate. Rounds
without a figure (lost ones, or where nobody has such records) count neither way. All that is
remembered is `Best`, which is in every checkpoint: a new process decides as the old one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from fedward.models.tasks.any_task import Sums
from fedward.server.checkpoint import Best, Checkpoint
from fedward.server.events import Metrics
from fedward.study.early_stopping import EarlyStopping
from fedward.study.messages import Vector

Judge = Callable[[Sums], Metrics | None]


class Delivered(NamedTuple):
    """What a run comes to.

    Attributes:
        model: That is judged on the test part, and delivered.
        validation: Its sums on the validation part, as far as they are known.
        is_last: Whether validation judges the last round's model, where the curve then ends.
        about: For people: which round's model it is, and why; None without early stopping.
    """

    model: Vector
    validation: Sums | None
    is_last: bool = True
    about: dict[str, Any] | None = None


class AllRounds:
    """All rounds are trained, and the last one's model is delivered."""

    def watched(
        self, best: Best | None, rounds: int, model: Vector, sums: Sums | None
    ) -> Best | None:
        """Nothing is remembered."""
        del rounds, model, sums
        return best

    def over(self, so_far: Checkpoint) -> bool:
        """Never before the last round."""
        del so_far
        return False

    def delivered(self, so_far: Checkpoint) -> Delivered:
        """The last round's model."""
        return Delivered(so_far.model, so_far.judged.get("validation"))


class StoppingEarly(AllRounds):
    """Training ends as the study's terms say."""

    def __init__(self, terms: EarlyStopping, judge: Judge) -> None:
        """Take the terms, and what makes metrics of sums over all hospitals."""
        self._terms = terms
        self._judge = judge

    def watched(
        self, best: Best | None, rounds: int, model: Vector, sums: Sums | None
    ) -> Best | None:
        """What is remembered after a model was measured.

        Args:
            best: What was remembered before; None if nothing was.
            rounds: Number of the round that the model came of; 0 for the first model, also where
                rounds were lost since.
            model: That was measured, shape (d,).
            sums: Of it on the validation part.
        """
        value = None if sums is None else self._value(sums)
        if sums is None or value is None or rounds == 0:
            return best
        if best is None or self._terms.improves(value, best.value):
            return Best(rounds, value, 0, model, sums)
        return best._replace(waited=best.waited + 1)

    def over(self, so_far: Checkpoint) -> bool:
        """Whether so many rounds brought no improvement."""
        return so_far.best is not None and so_far.best.waited >= self._terms.patience

    def delivered(self, so_far: Checkpoint) -> Delivered:
        """The best round's model, if the study keeps it; the last one's if that is better still.

        Where training ended early the last model is not measured, and validation judges the best
        one anew, over all hospitals. Where all rounds were trained it judges the last one.
        """
        best, measured = so_far.best, so_far.judged.get("validation")
        over, judged = self.over(so_far), "validation" in so_far.judged
        trained, value = len(so_far.rounds), None if measured is None else self._value(measured)
        about = self._about(so_far.last_finished, value, trained)
        last = Delivered(so_far.model, measured, True, about)
        if best is None or self._terms.keep == "last" or not (over or judged):
            return last
        if not over and value is not None and self._terms.improves(value, best.value):
            return last
        about = self._about(best.rounds, best.value, trained)
        return Delivered(best.model, measured if over else best.sums, not over, about)

    def _about(self, rounds: int, value: float | None, trained: int) -> dict[str, Any]:
        return {"metric": self._terms.metric, "value": value, "round": rounds, "trained": trained}

    def _value(self, sums: Sums) -> float | None:
        """The metric; None where it cannot be known."""
        value = (self._judge(sums) or {}).get(self._terms.metric)
        return None if value is None or not math.isfinite(value) else float(value)


def stopping_of(terms: EarlyStopping | None, judge: Judge) -> AllRounds:
    """What a study asks for."""
    return AllRounds() if terms is None else StoppingEarly(terms, judge)
