"""Judging a model on one part of a hospital's records, as sums."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedward.client.data.records import Records
from fedward.models.task import Classification, Sums
from fedward.privacy.precision import FLOAT32, Precision

_BATCH = 512


@torch.inference_mode()
def metric_sums(
    model: nn.Module,
    records: Records,
    task: Classification,
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
    for inputs, labels in records.batches(_BATCH):
        if len(labels):
            outputs = precision.outputs(model, inputs)
            total += task.sums(task.bounded(outputs) if bounded else outputs, labels)
    return total


@torch.inference_mode()
def mean_loss(
    model: nn.Module,
    records: Records,
    task: Classification,
    *,
    precision: Precision = FLOAT32,
) -> float:
    """The mean of the task's loss over these records; 0 if there are none."""
    model.eval()
    pieces = records.batches(_BATCH)
    losses = (task.loss(precision.outputs(model, x), y) for x, y in pieces if len(y))
    total = sum(float(loss.double().sum()) for loss in losses)
    return total / max(len(records), 1)
