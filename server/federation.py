"""The round loop: state in, messages out, one model after another.

With a folder, the state is on disk after every exchange, and what an exchange asks is on disk
before it is asked: a new process goes on where an earlier one was killed, and comes to the same
model. Hospitals are looked up anew for every round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.resampled import resampled_of
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums
from fedward.models.travelling import travelling
from fedward.privacy.contribution import Layout
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.statistics import layout_of, scaling_of
from fedward.privacy.statistics_table import TableSums, cells_of, table_of
from fedward.server.asked import AskedBefore
from fedward.server.checkpoint import Checkpoint, Checkpoints
from fedward.server.early_stopping import stopping_of
from fedward.server.events import (
    Answered,
    Event,
    HospitalsAwaited,
    Listener,
    Outcome,
    Refused,
    RoundDelayed,
    RoundFinished,
    RoundLost,
    RoundStarted,
    nobody,
)
from fedward.server.exchange import Heed, go_on
from fedward.server.giving_up import GivingUp
from fedward.server.judgement import monitored, outcome_of
from fedward.server.lost_rounds import SIMULATED, LostRounds
from fedward.server.members import Members
from fedward.server.offering import NoOffer, Offering
from fedward.server.optimizers import optimizer_of
from fedward.server.presence import Presence
from fedward.server.secure_summing import SecureSumming
from fedward.server.summing import Gathered, PlainSumming, Summing
from fedward.study.errors import FederationError, OptionError
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
from fedward.study.scaling import Scaling
from fedward.study.study import Study

_MOST_REFUSALS = 1000  # the newest; every checkpoint holds them, and every event was logged
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
        models: Path | None = None,
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
            models: The aggregator's folder of pretrained models.
        """
        self._study = study = settled(study)
        self._grid = grid
        self._run = run
        self._seed = seed
        self._tell = listener
        self._lost_rounds = lost_rounds
        self._members = members
        self._heed = heed
        self._models = models
        self._digest = study.digest()
        self._task = task_of(study)
        self._resampled = resampled_of(study, self._task)
        self._optimizer = optimizer_of(study, seed=seed)
        self._stopping = stopping_of(study.training.early_stopping, partial(monitored, self._task))
        self._giving_up = GivingUp(lost_rounds, fewest=study.participation.fewest)
        self._checkpoints = None if folder is None else Checkpoints(folder)
        asked = AskedBefore(None if folder is None else folder / "asked.json")
        self._summing: Summing = (
            SecureSumming(study, grid, run=run, asked=asked, heed=heed)
            if study.aggregation.secure
            else PlainSumming(study, grid, heed=heed)
        )
        self._so_far = Checkpoint(self._digest, run, seed, 0, np.zeros(0, np.float32))
        self._present = Presence(
            study.participation,
            grid,
            self._summing,
            seed=seed,
            members=members,
            offering=offering or NoOffer(),
            heed=heed,
            note=self._note,
        )
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
        network = build(self._study, seed=self._seed, models=self._models)
        if isinstance(self._study.privacy, LocalPrivacy):
            refuse_unprotected(network)
        self._restore_or_begin(flat.flatten(network, travelling(self._study, network)))
        monitor, rounds = self._monitored_part(), self._study.training.rounds
        if self._so_far.exchange < self._study.judging_round("test"):
            self._wait_for_hospitals()
        self._giving_up.stop_if_hopeless(self._so_far.rounds, taken_up=True)
        if self._study.data.measured and self._so_far.scaling is None:
            self._measure()
        for server_round in range(self._so_far.exchange + 1, rounds + 1):
            if self._stopping.over(self._so_far):
                break
            self._round(server_round, monitor)
            self._giving_up.stop_if_hopeless(self._so_far.rounds)
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

    def judged_again(self, model: Vector, scaling: Scaling | None) -> Sums:
        """Wait for the hospitals, and only judge a finished run's model on the test part.

        Args:
            model: What travels of it, shape (d,), float32.
            scaling: The constants that its run measured; None where it measured none.

        Returns:
            All sums of the exchange, in the form of the run's own judging.

        Raises:
            OptionError: Each hospital has a part of the model for itself, under the run's name.
            FederationError: Too few hospitals came, or too few answered.
        """
        if self._study.personal:
            raise OptionError(
                "the hospitals keep parts of this study's model for themselves, by their run",
                todo="use the table of the run's own end",
            )
        self._started = time.monotonic()
        self._keep(exchange=0)
        self._wait_for_hospitals()
        found = self._judged_on("test", model, scaling)
        if found is None:
            raise self._giving_up.stop(
                "judging on test: no hospital could", todo="see the hospitals' own logs"
            )
        return found

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
            raise self._giving_up.stop(
                "measuring over all hospitals: no hospital could",
                todo="see the hospitals' own logs",
            )
        return total.metrics

    def _round(self, server_round: int, monitor: Part) -> None:
        started, rounds = time.monotonic(), self._study.training.rounds
        so_far, model = self._so_far, self._so_far.model
        request = TrainRequest(
            *(self._digest, self._run, server_round, self._optimizer.asked(model), monitor),
            scaling=so_far.scaling,
            counted=so_far.counted,
        )
        gathered = self._ask(request, f"round {server_round}", self._layout(len(request.model)))
        total = gathered.total
        record: RoundFinished | RoundLost
        measured = None if total is None else total.metrics
        best = self._stopping.watched(so_far.best, so_far.last_finished, model, measured)
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
                metrics=monitored(self._task, total.metrics),
                attempts=gathered.attempts,
                clipped=total.clipped,
                capped=total.capped,
                failed=total.failed,
            )
        records = (*self._so_far.rounds, record)
        counted = self._counted(server_round, [] if total is None else gathered.answered)
        self._keep(exchange=server_round, model=model, rounds=records, counted=counted, best=best)
        self._tell(record)

    def _counted(self, server_round: int, answered: Sequence[str]) -> Mapping[str, int]:
        """Each hospital's last round in a sum, for an algorithm that sends more than the model."""
        if self._study.aggregation.vectors == 1:
            return {}
        return {**self._so_far.counted, **dict.fromkeys(answered, server_round)}

    def _judge(self, monitor: Part) -> Outcome:
        """The final model on validation, where the threshold may be chosen, and then on test."""
        for part in self._study.judged_parts:
            number = self._study.judging_round(part)
            if self._so_far.exchange >= number:
                continue
            model = self._stopping.delivered(self._so_far).model
            found = self._judged_on(part, model, self._so_far.scaling)
            self._keep(exchange=number, judged={**self._so_far.judged, part: found})
        final = self._stopping.delivered(self._so_far)
        return outcome_of(self._study, self._task, self._so_far, monitor, final)

    def _judged_on(self, part: Part, model: Vector, scaling: Scaling | None) -> Sums | None:
        """All that a part's judging adds up to; None where nobody could judge."""
        number = self._study.judging_round(part)
        request = EvaluateRequest(self._digest, self._run, number, model, part, scaling=scaling)
        layout = self._layout(0).of_models(self._study.judged_models)
        if part == "test" and self._resampled is not None:
            layout = layout.with_more(self._resampled.size, self._resampled.reals)
        total = self._ask(request, f"judging the final model on {part}", layout).total
        return None if total is None else total.metrics

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
            self._giving_up.stop_if_refused(gathered, where, asked)
            if repeat == policy.repeats:
                return self._give_up(gathered, where, training=training)
            repeat += 1
            wait = policy.wait_seconds
            self._tell(RoundDelayed(request.round, rounds, repeat, wait, gathered.why))
            self._present.sleep(wait)

    def _give_up(self, gathered: Gathered, where: str, *, training: bool) -> Gathered:
        """A round may be lost where the next can be better; the final model is judged once."""
        if training and not self._lost_rounds.pauses:
            return gathered
        there = [node for node in self._present.nodes if node not in gathered.absent]
        if training and gathered.fixed and not self._summing.lacking(there):
            return gathered  # those who were asked do not come back, and the others are enough
        raise self._giving_up.too_few(where, gathered.why)

    def _ask_once(self, request: Request, layout: Layout) -> tuple[Gathered, int]:
        """What came of it, and how many were asked."""
        training = isinstance(request, TrainRequest)
        self._present.look(request.round)
        nodes = self._present.invited(request.round) if training else self._present.nodes
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

    def _note(self, server_round: int, refusals: Sequence[Refusal]) -> None:
        for refusal in refusals:
            event = Refused(server_round, refusal)
            kept = (*self._so_far.refusals, event)[-_MOST_REFUSALS:]
            self._so_far = replace(self._so_far, refusals=kept)
            self._tell(event)

    def _wait_for_hospitals(self) -> None:
        """All of them before the first round; a run that is taken up waits for a moment only."""
        who, patience = self._study.participation, self._lost_rounds.wait_seconds
        first = (0, 1, self._study.judging_round("test"))  # that a run can begin with
        taken_up = self._so_far.exchange > 0 or any(map(self._summing.begun, first))
        most = min(who.wait_seconds, patience) if taken_up else who.wait_seconds

        def awaited(ready: int, why: str) -> None:
            self._tell(HospitalsAwaited(ready, who.hospitals, why))

        number = self._so_far.exchange
        count = self._present.wait(number, most=most, enough=taken_up, awaited=awaited)
        if count < who.hospitals and not taken_up:
            waits = self._present.waiting_for
            raise self._giving_up.stop(
                f"{count} of {who.hospitals} hospitals are ready{f' ({waits})' if waits else ''}",
                todo="start the others, have the study approved there, or raise "
                "[participation] wait_seconds",
            )

    def _monitored_part(self) -> Part:
        """Validation; the test part, for the curve only, where a study has no validation part."""
        return "validation" if self._study.data.validated else "test"


def _ignore(hospital: str) -> None:
    """Judging is quick: nobody watches each answer."""


__all__ = ["Event", "Federation", "Members"]
