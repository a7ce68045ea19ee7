"""The round loop: state in, messages out, one model after another."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import Classification, Sums
from fedward.privacy.contribution import Layout
from fedward.privacy.private_model import refuse_unprotected
from fedward.server.events import (
    Answered,
    Event,
    Listener,
    Metrics,
    Outcome,
    Refused,
    RoundFinished,
    RoundLost,
    RoundStarted,
    nobody,
)
from fedward.server.optimizer import ServerOptimizer
from fedward.server.secure_summing import SecureSumming
from fedward.server.summing import Gathered, PlainSumming, Summing
from fedward.study.errors import FederationError
from fedward.study.messages import (
    EvaluateRequest,
    Part,
    Refusal,
    Request,
    TrainRequest,
    Vector,
)
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

_MOST_LOST = 3  # rounds in a row


class Federation:
    """One run of one study over a grid of hospitals."""

    def __init__(
        self, study: Study, grid: Grid, *, run: str, seed: int, listener: Listener = nobody
    ) -> None:
        """Prepare a run.

        Args:
            study: The contract.
            grid: The way to the hospitals.
            run: Name of the run, for the hospitals' ledgers.
            seed: Of the first model's weights and of who is invited.
            listener: Is told what happens.
        """
        self._study = study = settled(study)
        self._grid = grid
        self._run = run
        self._seed = seed
        self._tell = listener
        self._digest = study.digest()
        self._task = Classification(study)
        self._refusals: list[Refused] = []
        self._fewest = study.participation.fewest
        self._summing: Summing = (
            SecureSumming(study, grid, run=run)
            if study.aggregation.secure
            else PlainSumming(study, grid)
        )

    def train_and_judge(self) -> Outcome:
        """Wait for the hospitals, train for all rounds, and judge the final model.

        Raises:
            FederationError: Too few hospitals came, or too few answered a round.
        PrivacyError: The study is private, and its model cannot be trained so.
        """
        started = time.monotonic()
        network = build(self._study, seed=self._seed)
        if isinstance(self._study.privacy, LocalPrivacy):
            refuse_unprotected(network)
        model = flat.flatten(network)
        nodes = self._wait_for_hospitals()
        self._note(0, self._summing.begin(nodes))
        optimizer = ServerOptimizer(self._study.aggregation)
        monitor = self._monitored_part()
        finished: list[RoundFinished | RoundLost] = []
        for server_round in range(1, self._study.training.rounds + 1):
            model, record = self._round(server_round, model, nodes, optimizer, monitor)
            finished.append(record)
            self._tell(record)
            _stop_if_hopeless(finished)
        outcome = self._judge(model, nodes, monitor)
        metrics = [None if isinstance(r, RoundLost) else r.metrics for r in finished]
        outcome = replace(
            outcome,
            curve=[*metrics, *outcome.curve],
            rounds=finished,
            refusals=self._refusals,
            seconds=time.monotonic() - started,
        )
        self._tell(outcome)
        return outcome

    def _round(
        self,
        server_round: int,
        model: Vector,
        nodes: Sequence[int],
        optimizer: ServerOptimizer,
        monitor: Part | None,
    ) -> tuple[Vector, RoundFinished | RoundLost]:
        started = time.monotonic()
        invited = self._invite(server_round, nodes)
        self._tell(RoundStarted(server_round, self._study.training.rounds, len(invited)))
        request = TrainRequest(self._digest, self._run, server_round, model, monitor)
        gathered = self._ask(invited, request, parameters=len(model))
        seconds, rounds = time.monotonic() - started, self._study.training.rounds
        total = gathered.total
        if total is None:
            _stop_if_refused(gathered, f"round {server_round}", len(invited), self._fewest)
            lost = RoundLost(server_round, rounds, seconds, gathered.attempts, gathered.why)
            return model, lost
        if total.failed and not total.weight:
            raise FederationError(
                f"round {server_round}: no hospital could train",
                todo="see the hospitals' own logs; a lower [training] learning_rate helps if the "
                "model grew beyond all bounds",
            )
        after = optimizer.step(server_round, model, gathered.each)
        return after, RoundFinished(
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

    def _judge(self, model: Vector, nodes: Sequence[int], monitor: Part | None) -> Outcome:
        """The final model on validation, where the threshold may be chosen, and then on test."""
        sums: dict[Part, Sums] = {}
        parts: tuple[Part, ...] = ("validation", "test") if monitor == "validation" else ("test",)
        for part in parts:
            number = self._study.judging_round(part)
            request = EvaluateRequest(self._digest, self._run, number, model, part)
            gathered = self._ask(nodes, request, parameters=0)
            if gathered.total is None:
                where = f"judging the final model on {part}"
                _stop_if_refused(gathered, where, len(nodes), self._fewest)
                raise _too_few(where, gathered.why)
            sums[part] = gathered.total.metrics
        validation = sums.get("validation")
        threshold = self._task.threshold(validation)
        return Outcome(
            model=model,
            test=self._task.metrics(sums["test"], threshold),
            validation=None if validation is None else self._task.metrics(validation, threshold),
            threshold=threshold,
            part=monitor,
            curve=[self._metrics(sums[monitor]) if monitor else None],
        )

    def _ask(self, nodes: Sequence[int], request: Request, *, parameters: int) -> Gathered:
        def heard(hospital: str) -> None:
            self._tell(Answered(request.round, hospital))

        layout = Layout(parameters, self._task.size, self._task.reals)
        training = isinstance(request, TrainRequest)
        gathered = self._summing.gather(
            nodes, request, layout, heard=heard if training else _ignore
        )
        self._note(request.round, gathered.refusals)
        return gathered

    def _note(self, server_round: int, refusals: Sequence[Refusal]) -> None:
        for refusal in refusals:
            event = Refused(server_round, refusal)
            self._refusals.append(event)
            self._tell(event)

    def _invite(self, server_round: int, nodes: Sequence[int]) -> list[int]:
        asked = self._study.participation.asked
        if asked >= len(nodes):
            return list(nodes)
        chosen = random.Random(f"{self._seed}/{server_round}").sample(list(nodes), asked)  # noqa: S311 - who is invited is no secret
        return sorted(chosen)

    def _wait_for_hospitals(self) -> list[int]:
        wanted = self._study.participation.hospitals
        last = time.monotonic() + self._study.participation.wait_seconds
        while len(nodes := sorted(self._grid.get_node_ids())) < wanted:
            if time.monotonic() > last:
                raise FederationError(
                    f"{len(nodes)} of {wanted} hospitals are connected",
                    todo="start the others, or raise [participation] wait_seconds",
                )
            time.sleep(0.2)
        return nodes[:wanted]

    def _monitored_part(self) -> Part:
        """Validation; the test part, for the curve only, where a study has no validation part."""
        return "validation" if self._study.data.validated else "test"

    def _metrics(self, sums: Sums) -> Metrics | None:
        threshold = self._task.threshold(sums)
        return self._task.metrics(sums, threshold) if np.any(sums) else None


def _stop_if_refused(gathered: Gathered, where: str, asked: int, fewest: int) -> None:
    """Asking again does not help where so many hospitals said no that too few are left."""
    if asked - len(gathered.refusals) >= fewest:
        return
    first = gathered.refusals[0]
    others = len(gathered.refusals) - 1
    more = f" (and {others} more refusals)" if others else ""
    raise FederationError(
        f"{where}: {first.what}{more}",
        todo=first.todo or "see that hospital's log",
        where=f"hospital {first.hospital}",
    )


def _stop_if_hopeless(finished: Sequence[RoundFinished | RoundLost]) -> None:
    """A run whose last rounds were all lost does not get better by going on."""
    latest = finished[-_MOST_LOST:]
    last = latest[-1]
    at_the_end = last.round == last.rounds
    all_lost = all(isinstance(record, RoundLost) for record in latest)
    if isinstance(last, RoundLost) and all_lost and (len(latest) == _MOST_LOST or at_the_end):
        raise _too_few(f"round {last.round}", last.why)


def _too_few(where: str, why: str) -> FederationError:
    return FederationError(
        f"{where}: {why}",
        todo="raise [participation] deadline_seconds, or lower min_hospitals",
    )


def _ignore(hospital: str) -> None:
    """Judging is quick: nobody watches each answer."""


__all__ = ["Event", "Federation"]
