"""What a model's outputs mean to a person: probabilities, a number, a curve, a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.study.errors import OptionError
from fedward.study.task import (
    ClassTask,
    MultilabelTask,
    ReconstructionTask,
    RegressionTask,
    SegmentationTask,
    SurvivalTask,
    Task,
)


class Answer(NamedTuple):
    """What a model says of one record.

    Attributes:
        values: By name: each class's or finding's probability; the number of a regression; the
            probability that nothing has happened by the end of each interval, or the log risk; the
            share of pixels of each class; the mean squared error of a reconstruction.
        called: The classes or findings that it calls; empty where a task calls nothing.
        mask: Class of each pixel, shape as the record's without channels, int64; for segmentation.
    """

    values: dict[str, float]
    called: tuple[str, ...] = ()
    mask: NDArray[np.int64] | None = None


def answers(outputs: Tensor, inputs: Tensor, task: Task, *, threshold: float) -> tuple[Answer, ...]:
    """What outputs mean, one answer a record.

    Args:
        outputs: Of the model, shape (n, ...), as the task has them.
        inputs: What it saw, shape (n, *input_shape).
        task: The study's.
        threshold: Probability from which a binary or multilabel task calls a finding.
    """
    match task:
        case ClassTask():
            shares = outputs.double().softmax(dim=1).tolist()
            return tuple(_of_classes(row, task, threshold) for row in shares)
        case MultilabelTask():
            shares = outputs.double().sigmoid().tolist()
            return tuple(_of_findings(row, task.classes, threshold) for row in shares)
        case RegressionTask():
            low, high = task.bounds
            numbers = (outputs[:, 0].double() * (high - low) / 2 + (low + high) / 2).tolist()
            return tuple(Answer({"value": number}) for number in numbers)
        case SurvivalTask():
            return tuple(_of_survival(row, task) for row in outputs.double())
        case SegmentationTask():
            return tuple(_of_pixels(row, task.classes) for row in outputs.argmax(dim=1))
        case ReconstructionTask():
            errors = (outputs[:, :-1] - inputs.flatten(1)).double().square().mean(dim=1)
            return tuple(Answer({"error": error}) for error in errors.tolist())
    raise OptionError(f"no answer is told for a {task.kind} task", todo="use the model in Python")


def _of_classes(shares: Sequence[float], task: ClassTask, threshold: float) -> Answer:
    values = dict(zip(task.classes, shares, strict=True))
    if task.kind == "binary":
        return Answer(values, (task.classes[int(shares[1] >= threshold)],))
    return Answer(values, (max(values, key=values.__getitem__),))


def _of_findings(shares: Sequence[float], classes: Sequence[str], threshold: float) -> Answer:
    values = dict(zip(classes, shares, strict=True))
    return Answer(values, tuple(name for name, share in values.items() if share >= threshold))


def _of_survival(row: Tensor, task: SurvivalTask) -> Answer:
    """Survival at the end of an interval is the product of 1 - hazard up to it."""
    if task.loss == "cox":
        return Answer({"log risk": row[0].item()})
    alive = torch.nn.functional.logsigmoid(-row).cumsum(dim=0).exp().tolist()
    each = zip(task.intervals, alive, strict=True)
    return Answer({f"free of the event at {end:g}": share for end, share in each})


def _of_pixels(called: Tensor, classes: Sequence[str]) -> Answer:
    counts = torch.bincount(called.flatten(), minlength=len(classes)).double()
    shares = (counts / counts.sum()).tolist()
    return Answer(dict(zip(classes, shares, strict=True)), mask=called.numpy())
