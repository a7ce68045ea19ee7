"""What happens in a federation, for whoever wants to watch: progress view, log, dashboard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedward.models.tasks.any_task import Sums
from fedward.study.messages import Part, Refusal, Vector

Metrics = dict[str, Any]


@dataclass(frozen=True)
class HospitalsAwaited:
    """Too few hospitals are there to begin.

    Attributes:
        ready: Those that are connected and have approved the study.
        wanted: By the study.
        why: What the others do not do, as far as they said; may be empty.
    """

    ready: int
    wanted: int
    why: str

    @property
    def words(self) -> str:
        """In a clause."""
        return f"for hospitals, {self.ready} of {self.wanted} are ready" + (
            f" ({self.why})" if self.why else ""
        )


@dataclass(frozen=True)
class RoundStarted:
    """A round's requests have left."""

    round: int
    rounds: int
    asked: int


@dataclass(frozen=True)
class Answered:
    """A hospital's contribution was added to the round's sum."""

    round: int
    hospital: str


@dataclass(frozen=True)
class Refused:
    """A hospital declined or failed."""

    round: int
    refusal: Refusal


@dataclass(frozen=True)
class RoundFinished:
    """A round gave a new model.

    Attributes:
        round: From 1.
        rounds: Of the whole run.
        seconds: From the first request to the new model.
        answered: Hospitals in the mean.
        silent: Hospitals that said nothing until the deadline.
        part: Part that `metrics` were taken on.
        metrics: Of the model as it was before this round.
        attempts: How often the round's sum was tried.
        clipped: Hospitals whose update was clipped to the study's norm.
        capped: Hospitals that weigh less than they would without the study's cap.
        failed: Hospitals that answered and could not train; their own logs say why.
    """

    round: int
    rounds: int
    seconds: float
    answered: int
    silent: int
    part: Part | None
    metrics: Metrics | None
    attempts: int = 1
    clipped: int = 0
    capped: int = 0
    failed: int = 0


@dataclass(frozen=True)
class RoundLost:
    """A round gave no sum; the model stays as it was, and the next round trains anew.

    Attributes:
        round: From 1.
        rounds: Of the whole run.
        seconds: From the first request until it was given up.
        attempts: How often the round's sum was tried.
        why: Why there was none.
    """

    round: int
    rounds: int
    seconds: float
    attempts: int
    why: str


@dataclass(frozen=True)
class RoundDelayed:
    """An exchange gave no sum, and is asked again after a wait.

    Attributes:
        round: From 1; a judging round comes after the last.
        rounds: Of the whole run.
        repeat: From 1, how often it is asked again.
        seconds: Until then.
        why: Why there was no sum.
    """

    round: int
    rounds: int
    repeat: int
    seconds: float
    why: str


@dataclass(frozen=True)
class Outcome:
    """The end of a federation.

    Attributes:
        model: The final model, shape (d,), float32.
        test: Metrics on the test part of all hospitals together.
        validation: Metrics on the validation part; None if there is none.
        threshold: Probability from which a binary task calls the finding.
        curve: Metrics on `part` after 0, 1, ... rounds; None where nothing was measured.
        part: The part that the curve was measured on.
        rounds: Each round.
        refusals: The newest refusals and failures, each with its round.
        seconds: The whole federation.
        scaling: Center and scale of each measured feature; None in a study that measures nothing.
        personal: Metrics of the hospitals' personal models on their own test parts, all records
            together; None in a study without such models beside the global one.
        noise: Of every evaluation, at each hospital: its multiplier, the largest norm of what one
            patient adds, and the standard deviation in each sum; None where there is none.
        sums: What the figures are computed from, by part; see `fedward.models.judged`.
        early_stopping: The `metric` and its `value` on the validation part, the `round` whose model
            this is, and how many were `trained`; None in a study that trains all its rounds.
        on_test: All that judging on the test part added up; None where nobody could judge.
    """

    model: Vector
    test: Metrics
    validation: Metrics | None
    threshold: float
    part: Part | None
    curve: list[Metrics | None] = field(default_factory=list)
    rounds: list[RoundFinished | RoundLost] = field(default_factory=list)
    refusals: list[Refused] = field(default_factory=list)
    seconds: float = 0.0
    scaling: dict[str, dict[str, float]] | None = None
    noise: dict[str, float] | None = None
    personal: Metrics | None = None
    early_stopping: dict[str, Any] | None = None
    sums: Mapping[Part, Sums] = field(default_factory=dict)
    on_test: Sums | None = None


Event = (
    HospitalsAwaited
    | RoundStarted
    | Answered
    | Refused
    | RoundFinished
    | RoundLost
    | RoundDelayed
    | Outcome
)
Listener = Callable[[Event], None]


def nobody(event: Event) -> None:
    """A listener that does not listen."""
