"""The round loop: state in, messages out, one model after another.

With a folder, the state is on disk after every exchange, and what an exchange asks is on disk
before it is asked: a new process goes on where an earlier one was killed, and comes to the same
model. Hospitals are looked up anew for every round.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.contribution import Layout
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.statistics import layout_of, scaling_of
from fedward.privacy.statistics_table import TableSums, cells_of, table_of
from fedward.server.asked import AskedBefore
from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.events import (
    Answered,
    Event,
    Listener,
    Metrics,
    Outcome,
    Refused,
    RoundDelayed,
    RoundFinished,
    RoundLost,
    RoundStarted,
    nobody,
)
from fedward.server.exchange import Heed, go_on
from fedward.server.lost_rounds import SIMULATED, LostRounds
from fedward.server.members import Members
from fedward.server.offering import NoOffer, Offering
from fedward.server.optimizer import ServerOptimizer
from fedward.server.run_errors import RunPaused
from fedward.server.secure_summing import SecureSumming
from fedward.server.summing import Gathered, PlainSumming, Summing
from fedward.study.errors import FederationError, OptionError, RefusedError
from fedward.study.messages import (
    EvaluateRequest,
    MeasureRequest,
    Part,
    Refusal,
    Request,
    TrainRequest,
    Vector,
)
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

_LOOK_AGAIN = 0.2  # seconds between looks at who is connected


def _everybody() -> Members | None:
    return None


class Federation:
    """One run of one study over a grid of hospitals."""

    def __init__(
        self,
        study: Study,
        grid: Grid,
        *,
        run: str,
        seed: int,
        listener: Listener = nobody,
        folder: Path | None = None,
        lost_rounds: LostRounds = SIMULATED,
        members: Callable[[], Members | None] = _everybody,
        offering: Offering | None = None,
        heed: Heed = go_on,
    ) -> None:
        """Prepare a run.

        Args:
            study: The contract.
            grid: The way to the hospitals.
            run: Name of the run, for the hospitals' ledgers.
            seed: Of the first model's weights and of who is invited.
            listener: Is told what happens.
            folder: Where checkpoints are kept and found; none are if None.
            lost_rounds: What becomes of a round that gave no sum.
            members: Who may take part, asked before every exchange; everybody if it gives None.
            offering: Puts the study before the hospitals; without it they approved it beforehand.
            heed: Called again and again; what it raises ends the run, which can be taken up later.
        """
        self._study = study = settled(study)
        self._grid = grid
        self._run = run
        self._seed = seed
        self._tell = listener
        self._lost_rounds = lost_rounds
        self._members = members
        self._offering: Offering = offering or NoOffer()
        self._heed = heed
        self._digest = study.digest()
        self._task = task_of(study)
        self._fewest = study.participation.fewest
        self._optimizer = ServerOptimizer(study.aggregation)
        self._checkpoints = None if folder is None else Checkpoints(folder)
        self._nodes: list[int] = []
        asked = AskedBefore(None if folder is None else folder / "asked.json")
        self._summing: Summing = (
            SecureSumming(study, grid, run=run, asked=asked, heed=heed)
            if study.aggregation.secure
            else PlainSumming(study, grid, heed=heed)
        )
        self._so_far = Checkpoint(self._digest, run, seed, 0, np.zeros(0, np.float32))
        self._looked = False
        self._started = time.monotonic()

    def train_and_judge(self) -> Outcome:
        """Wait for the hospitals, train for all rounds, and judge the final model.

        A run with checkpoints goes on after the last one.

        Raises:
            FederationError: Too few hospitals came, or too few answered a round.
            RunPaused: The same, of a run that can be taken up again.
            PrivacyError: The study is private, and its model cannot be trained so.
            OptionError: The checkpoints are another run's.
        """
        self._started = time.monotonic()
        network = build(self._study, seed=self._seed)
        if isinstance(self._study.privacy, LocalPrivacy):
            refuse_unprotected(network)
        self._restore_or_begin(flat.flatten(network))
        monitor, rounds = self._monitored_part(), self._study.training.rounds
        if self._so_far.exchange < self._study.judging_round("test"):
            self._wait_for_hospitals()
        self._stop_if_hopeless(taken_up=True)
        if self._study.data.measured and self._so_far.scaling is None:
            self._measure()
        for server_round in range(self._so_far.exchange + 1, rounds + 1):
            self._round(server_round, monitor)
            self._stop_if_hopeless()
        outcome = self._judge(monitor)
        self._tell(outcome)
        return outcome

    def statistics(self) -> TableSums:
        """Wait for the hospitals, and only add up the table of statistics: nothing is trained.

        Raises:
            OptionError: The study asks for none.
            FederationError: Too few hospitals came, or too few answered.
        """
        if not cells_of(self._study):
            raise OptionError(
                "the study asks for no statistics",
                todo="write [data.statistics] into it, and have it approved",
            )
        self._started = time.monotonic()
        self._keep(exchange=0)
        self._wait_for_hospitals()
        return table_of(self._measured_sums(), self._study)

    def _restore_or_begin(self, first: Vector) -> None:
        latest = None if self._checkpoints is None else self._checkpoints.latest()
        if latest is None:
            self._keep(exchange=0, model=first)
            return
        for name, ours, theirs in (
            ("study", self._digest, latest.study),
            ("run", self._run, latest.run),
            ("seed", self._seed, latest.seed),
        ):
            if ours != theirs:
                raise OptionError(
                    f"the checkpoint is of {name} {theirs}, and this is {ours}",
                    todo=f"resume it with the same {name}, or begin a new run",
                )
        if latest.model.shape != first.shape or latest.model.dtype != first.dtype:
            raise OptionError(
                f"the checkpoint's model has shape {latest.model.shape}, the study's {first.shape}",
                todo="resume it with the version of fedward that began it",
            )
        self._so_far = latest
        self._optimizer.restore(latest.optimizer)

    def _keep(self, **changes: Any) -> None:  # noqa: ANN401 - fields of a checkpoint
        """Take a step; it is on disk before anybody is told of it."""
        now = time.monotonic()
        seconds = self._so_far.seconds + now - self._started
        members = self._members()
        self._started = now
        self._so_far = replace(
            self._so_far,
            optimizer=self._optimizer.state(),
            roster=0 if members is None else members.version,
            seconds=seconds,
            **changes,
        )
        if self._checkpoints is not None:
            self._checkpoints.save(self._so_far)

    def _measure(self) -> None:
        """The study's scaling constants, from sums over all hospitals: once, before round 1."""
        data, noisy = self._study.data, isinstance(self._study.privacy, LocalPrivacy)
        self._keep(exchange=0, scaling=scaling_of(self._measured_sums(), data, noisy=noisy))

    def _measured_sums(self) -> Sums:
        request, study = MeasureRequest(self._digest, self._run), self._study
        layout = layout_of(study.data, cells=cells_of(study))
        total = self._ask(request, "measuring over all hospitals", layout).total
        if total is None or not total.metrics[0]:
            raise self._stop(
                "measuring over all hospitals: no hospital could",
                todo="see the hospitals' own logs",
            )
        return total.metrics

    def _round(self, server_round: int, monitor: Part | None) -> None:
        started, rounds = time.monotonic(), self._study.training.rounds
        model = self._so_far.model
        request = TrainRequest(
            *(self._digest, self._run, server_round, model, monitor), scaling=self._so_far.scaling
        )
        gathered = self._ask(request, f"round {server_round}", self._layout(len(model)))
        total = gathered.total
        record: RoundFinished | RoundLost
        if total is None:
            seconds = time.monotonic() - started
            record = RoundLost(server_round, rounds, seconds, gathered.attempts, gathered.why)
        elif total.failed and not total.weight:
            raise FederationError(
                f"round {server_round}: no hospital could train",
                todo="see the hospitals' own logs; a lower [training] learning_rate helps if the "
                "model grew beyond all bounds",
            )
        else:
            model = self._optimizer.step(server_round, model, gathered.each)
            record = RoundFinished(
                round=server_round,
                rounds=rounds,
                seconds=time.monotonic() - started,
                answered=len(gathered.answered),
                silent=gathered.silent,
                part=monitor,
                metrics=self._metrics(total.metrics) if monitor else None,
                attempts=gathered.attempts,
                clipped=total.clipped,
                capped=total.capped,
                failed=total.failed,
            )
        records = (*self._so_far.rounds, record)
        self._keep(exchange=server_round, model=model, rounds=records)
        self._tell(record)

    def _judge(self, monitor: Part | None) -> Outcome:
        """The final model on validation, where the threshold may be chosen, and then on test."""
        for part in self._study.judged_parts:
            number = self._study.judging_round(part)
            if self._so_far.exchange >= number:
                continue
            request = EvaluateRequest(
                *(self._digest, self._run, number, self._so_far.model, part),
                scaling=self._so_far.scaling,
            )
            where = f"judging the final model on {part}"
            total = self._ask(request, where, self._layout(0)).total
            found = None if total is None else total.metrics
            self._keep(exchange=number, judged={**self._so_far.judged, part: found})
        sums, done = self._so_far.judged, self._so_far
        validation, test = sums.get("validation"), sums.get("test")
        threshold = self._task.threshold(validation)
        nothing = np.zeros(self._task.size)
        last = sums.get(monitor) if monitor else None
        curve = [None if isinstance(r, RoundLost) else r.metrics for r in done.rounds]
        return Outcome(
            model=done.model,
            test=self._task.metrics(nothing if test is None else test, threshold),
            validation=None if validation is None else self._task.metrics(validation, threshold),
            threshold=threshold,
            part=monitor,
            curve=[*curve, None if last is None else self._metrics(last)],
            rounds=list(done.rounds),
            refusals=list(done.refusals),
            seconds=done.seconds,
            scaling=None if done.scaling is None else done.scaling.named(self._study.data),
            noise=self._noise(),
        )

    def _noise(self) -> dict[str, float] | None:
        """What noise is in the metrics; None where there is none."""
        noise, task = self._study.evaluation_noise, self._task
        if noise is None or not isinstance(task, NoisedClassification):
            return None
        return {"multiplier": noise, "norm": task.norm, "deviation": task.deviation}

    def _layout(self, parameters: int) -> Layout:
        return Layout(parameters, self._task.size, self._task.reals)

    def _ask(self, request: Request, where: str, layout: Layout) -> Gathered:
        """One exchange, repeated as often as this run is patient.

        Returns:
            What came of it; without a sum if the run should go on without this exchange.

        Raises:
            FederationError: It should not.
        """
        rounds, policy = self._study.training.rounds, self._lost_rounds
        repeat = 0
        while True:
            self._heed()
            gathered, asked = self._ask_once(request, layout)
            if gathered.total is not None:
                return gathered
            training = isinstance(request, TrainRequest)
            if gathered.hopeless and policy.pauses:
                return gathered
            self._stop_if_refused(gathered, where, asked)
            if repeat == policy.repeats:
                return self._give_up(gathered, where, training=training)
            repeat += 1
            wait = policy.wait_seconds
            self._tell(RoundDelayed(request.round, rounds, repeat, wait, gathered.why))
            self._sleep(wait)

    def _give_up(self, gathered: Gathered, where: str, *, training: bool) -> Gathered:
        """A round may be lost where the next can be better; the final model is judged once."""
        if training and not self._lost_rounds.pauses:
            return gathered
        there = [node for node in self._nodes if node not in gathered.absent]
        if training and gathered.fixed and not self._summing.lacking(there):
            return gathered  # those who were asked do not come back, and the others are enough
        raise _too_few(self._kind, where, gathered.why)

    def _ask_once(self, request: Request, layout: Layout) -> tuple[Gathered, int]:
        """What came of it, and how many were asked."""
        training = isinstance(request, TrainRequest)
        if not self._looked:
            self._look_around(request.round)
        self._looked = False
        nodes = self._invite(request.round) if training else self._nodes
        why = self._summing.lacking(nodes) if self._lost_rounds.pauses else ""
        if why and not self._summing.begun(request.round):
            return Gathered(why=why), len(nodes)  # whoever were asked now would work for nothing
        if training:
            rounds = self._study.training.rounds
            self._tell(RoundStarted(request.round, rounds, len(nodes)))

        def heard(hospital: str) -> None:
            self._tell(Answered(request.round, hospital))

        gathered = self._summing.gather(
            nodes, request, layout, heard=heard if training else _ignore
        )
        self._note(request.round, gathered.refusals)
        return gathered, len(nodes)

    def _look_around(self, number: int) -> None:
        """Who is connected and may take part, as it is now."""
        members = self._members()
        if members is not None:
            self._summing.allow(members.names)
        present = self._approving()
        self._note(number, self._summing.begin(present))
        wanted = self._study.participation.hospitals
        able = present if len(present) <= wanted else self._summing.able(present)
        others = [node for node in present if node not in able]
        self._nodes = sorted([*able, *others][:wanted])

    def _approving(self) -> list[int]:
        """Those that are connected and whose hospital has approved the study."""
        return self._offering.approving(sorted(self._grid.get_node_ids()))

    def _note(self, server_round: int, refusals: Sequence[Refusal]) -> None:
        for refusal in refusals:
            event = Refused(server_round, refusal)
            self._so_far = replace(self._so_far, refusals=(*self._so_far.refusals, event))
            self._tell(event)

    def _invite(self, server_round: int) -> list[int]:
        asked = self._study.participation.asked
        if asked >= len(self._nodes):
            return self._nodes
        chosen = random.Random(f"{self._seed}/{server_round}").sample(self._nodes, asked)  # noqa: S311 - who is invited is no secret
        return sorted(chosen)

    def _wait_for_hospitals(self) -> None:
        """All of them before the first round; a run that is taken up waits for a moment only."""
        wanted, patience = self._study.participation.hospitals, self._lost_rounds.wait_seconds
        taken_up = self._so_far.exchange > 0 or any(map(self._summing.begun, (0, 1)))
        wait = self._study.participation.wait_seconds
        last = time.monotonic() + (min(wait, patience) if taken_up else wait)
        while (count := len(self._approving())) < wanted:
            if time.monotonic() > last and taken_up:
                break
            if time.monotonic() > last:
                waits = self._offering.waiting_for
                raise self._stop(
                    f"{count} of {wanted} hospitals are ready{f' ({waits})' if waits else ''}",
                    todo="start the others, have the study approved there, or raise "
                    "[participation] wait_seconds",
                )
            self._sleep(_LOOK_AGAIN)
        self._look_around(self._so_far.exchange)
        self._looked = True

    def _sleep(self, seconds: float) -> None:
        last = time.monotonic() + seconds
        self._heed()
        while (left := last - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_AGAIN))
            self._heed()

    def _monitored_part(self) -> Part:
        """Validation; the test part, for the curve only, where a study has no validation part."""
        return "validation" if self._study.data.validated else "test"

    def _metrics(self, sums: Sums) -> Metrics | None:
        threshold = self._task.threshold(sums)
        return self._task.metrics(sums, threshold) if np.any(sums) else None

    def _stop_if_refused(self, gathered: Gathered, where: str, asked: int) -> None:
        """Asking again does not help where so many hospitals said no that too few are left.

        In a deployment only a person's no counts; what went wrong by itself may go well again.
        """
        said = gathered.refusals
        if self._lost_rounds.pauses:
            said = [refusal for refusal in said if refusal.error in _says_no()]
        if asked - len(said) >= self._fewest:
            return
        if not said:
            return
        others = len(said) - 1
        more = f" (and {others} more refusals)" if others else ""
        raise self._stop(
            f"{where}: {said[0].what}{more}",
            todo=said[0].todo or "see that hospital's log",
            where=f"hospital {said[0].hospital}",
        )

    def _stop_if_hopeless(self, *, taken_up: bool = False) -> None:
        """A run whose last rounds were all lost does not get better by going on."""
        rounds, most = self._so_far.rounds, self._lost_rounds.most_lost
        latest = [record for record in rounds[-most:] if isinstance(record, RoundLost)]
        if not latest or len(latest) < len(rounds[-most:]):
            return
        last = latest[-1]
        if last.round == last.rounds and len(latest) == len(rounds):
            raise _too_few(FederationError, f"round {last.round}", last.why)
        at_the_end = last.round == last.rounds and not self._lost_rounds.pauses
        if at_the_end or (len(latest) == most and not taken_up and last.round != last.rounds):
            raise _too_few(self._kind, f"round {last.round}", last.why)

    @property
    def _kind(self) -> type[FederationError]:
        return RunPaused if self._lost_rounds.pauses else FederationError

    def _stop(self, what: str, *, todo: str, where: str = "") -> FederationError:
        return self._kind(what, todo=todo, where=where)


def _says_no() -> set[str]:
    """Names of the errors that say that a hospital will not."""
    kinds: list[type[Exception]] = [RefusedError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.__name__ for kind in kinds}


def _too_few(kind: type[FederationError], where: str, why: str) -> FederationError:
    return kind(
        f"{where}: {why}",
        todo="raise [participation] deadline_seconds, or lower min_hospitals",
    )


def _ignore(hospital: str) -> None:
    """Judging is quick: nobody watches each answer."""


__all__ = ["Event", "Federation", "Members"]
