"""Judging a model on one part of a hospital's records, as sums."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.models.task import Sums, Task
from fedward.privacy.precision import FLOAT32, Precision

_BATCH = 512
_NUMBERS = 2**24  # of the inputs that are judged at once, at most


@torch.inference_mode()
def metric_sums(
    model: nn.Module,
    records: Records,
    task: Task,
    *,
    bounded: bool = False,
    precision: Precision = FLOAT32,
) -> Sums:
    """The task's metric sums over these records; zeros if there are none.

    Args:
        model: On the device of the records.
        records: To judge on.
        task: Gives the sums.
        bounded: Whether no record may make them too large to be added up: to fail there would tell
            of it. A model that diverged is then one that knows nothing.
        precision: How finely the network computes.
    """
    model.eval()
    total = np.zeros(task.size)
    pieces = _judged(model, records, task, precision)
    if task.whole:
        pieces = _together(pieces)
    for outputs, truth in pieces:
        total += task.sums(task.bounded(outputs) if bounded else outputs, truth)
    return total


@torch.inference_mode()
def mean_loss(
    model: nn.Module,
    records: Records,
    task: Task,
    *,
    precision: Precision = FLOAT32,
) -> float:
    """The mean of the task's loss over these records; 0 if there are none."""
    model.eval()
    losses = (task.loss(*piece) for piece in _judged(model, records, task, precision))
    total = sum(float(loss.double().sum()) for loss in losses)
    return total / max(len(records), 1)


def _judged(
    model: nn.Module, records: Records, task: Task, precision: Precision
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and truth, as many records at a time as there is room for."""
    each = records.inputs[:1].numel()
    size = max(1, min(_BATCH, _NUMBERS // max(each, 1)))
    for inputs, labels in zip(records.inputs.split(size), records.labels.split(size), strict=True):
        if len(labels):
            yield precision.outputs(model, inputs), task.truth(inputs, labels)


def _together(pieces: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """All pieces as one; none if there are none."""
    found = list(pieces)
    if found:
        outputs, truth = zip(*found, strict=True)
        yield torch.cat(outputs), torch.cat(truth)
