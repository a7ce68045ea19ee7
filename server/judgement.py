"""From the sums of a run that is over to its figures."""

from __future__ import annotations

from functools import partial

import numpy as np

from fedward.models.task import task_of
from fedward.models.tasks.any_task import Sums, Task
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.server.checkpoint import Checkpoint
from fedward.server.early_stopping import Delivered, stopping_of
from fedward.server.events import Metrics, Outcome, RoundLost
from fedward.study.errors import DataError
from fedward.study.messages import Part
from fedward.study.study import Study


def outcome_of(
    study: Study, task: Task, done: Checkpoint, monitor: Part, final: Delivered
) -> Outcome:
    """The end of a federation.

    The threshold may be chosen on validation; personal models get one of their own.

    Args:
        study: The run's.
        task: The study's.
        done: The run after its last exchange.
        monitor: The part that rounds were monitored on.
        final: The model that the run comes to.
    """
    first = {part: _of_model(sums, task, 0) for part, sums in done.judged.items()}
    validation = _of_model(final.validation, task, 0)
    test = first.get("test")
    threshold = task.threshold(validation)
    last = first.get(monitor) if final.is_last else None
    curve = [None if isinstance(r, RoundLost) else r.metrics for r in done.rounds]
    return Outcome(
        model=final.model,
        test=_metrics(task, test, threshold),
        validation=None if validation is None else task.metrics(validation, threshold),
        threshold=threshold,
        part=monitor,
        curve=[*curve, None if last is None else monitored(task, last)],
        rounds=list(done.rounds),
        refusals=list(done.refusals),
        seconds=done.seconds,
        scaling=None if done.scaling is None else done.scaling.named(study.data),
        noise=_noise(study, task),
        personal=_personal(study, task, done),
        early_stopping=final.about,
        sums=_known(validation=validation, test=test),
        on_test=done.judged.get("test"),
    )


def finished(study: Study, done: Checkpoint) -> Outcome:
    """What a run came to, from its last checkpoint.

    Raises:
        DataError: It has not judged its model yet.
    """
    if done.exchange < study.judging_round("test"):
        raise DataError(
            f"the run {done.run} has not come to its end", todo="wait until it is finished"
        )
    task = task_of(study)
    stopping = stopping_of(study.training.early_stopping, partial(monitored, task))
    monitor: Part = "validation" if study.data.validated else "test"
    return outcome_of(study, task, done, monitor, stopping.delivered(done))


def _known(*, validation: Sums | None, test: Sums | None) -> dict[Part, Sums]:
    """The parts that judged the final model."""
    parts: dict[Part, Sums | None] = {"validation": validation, "test": test}
    return {part: sums for part, sums in parts.items() if sums is not None}


def monitored(task: Task, sums: Sums) -> Metrics | None:
    """The metrics of one part at a threshold of its own; None where nobody was judged."""
    return task.metrics(sums, task.threshold(sums)) if np.any(sums) else None


def _personal(study: Study, task: Task, done: Checkpoint) -> Metrics | None:
    """The hospitals' personal models, each judged at home; None where there are none."""
    if study.judged_models < 2:
        return None
    own = {part: _of_model(sums, task, 1) for part, sums in done.judged.items()}
    return _metrics(task, own.get("test"), task.threshold(own.get("validation")))


def _of_model(sums: Sums | None, task: Task, number: int) -> Sums | None:
    """One model's metric sums, of those of several; None for a part that could not be judged."""
    return None if sums is None else sums[number * task.size : (number + 1) * task.size]


def _metrics(task: Task, sums: Sums | None, threshold: float) -> Metrics:
    return task.metrics(np.zeros(task.size) if sums is None else sums, threshold)


def _noise(study: Study, task: Task) -> dict[str, float] | None:
    """What noise is in the metrics; None where there is none."""
    noise = study.evaluation_noise
    if noise is None or not isinstance(task, NoisedClassification):
        return None
    return {"multiplier": noise, "norm": task.norm, "deviation": task.deviation}
