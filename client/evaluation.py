"""Judging a model on one part of a hospital's records, as sums."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.models.tasks.any_task import Sums, Task
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.patient_steps import at_most
from fedward.privacy.precision import FLOAT32, Precision
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.statistics import clipped_sum

_BATCH = 512
_NUMBERS = 2**24  # of the inputs that are judged at once, at most
_PATIENTS = 512  # whose sums are apart at the same time


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
    pieces = pieces_of(model, records, task, precision)
    if task.whole:
        pieces = as_one(pieces)
    for outputs, truth in pieces:
        total += task.sums(task.bounded(outputs) if bounded else outputs, truth)
    return total


def patient_sums(
    model: nn.Module,
    records: Records,
    task: NoisedClassification,
    sampling: SecretStream,
    *,
    precision: Precision = FLOAT32,
) -> Sums:
    """The sum over patients of the means over their records, each patient within the norm.

    It has no noise, and must never leave. Zeros if there is nobody.

    Args:
        model: On the device of the records.
        records: To judge on.
        task: Gives the sums, and says how many records a patient brings.
        sampling: Source of the choice of records.
        precision: How finely the network computes.
    """
    everybody, number = records.patients.cpu().unique(return_inverse=True)
    chosen = at_most(task.records_per_patient, torch.arange(len(number)), number, sampling)
    model.eval()
    total = np.zeros(task.size)
    for start in range(0, len(everybody), _PATIENTS):  # nobody's records are torn apart
        here = (start <= chosen.patients) & (chosen.patients < start + _PATIENTS)
        rows = chosen.records[here].to(records.device)
        vectors = _patient_vectors(model, records, rows, chosen.patients[here], task, precision)
        total += clipped_sum(vectors, task.norm)
    return total


@torch.inference_mode()
def _patient_vectors(
    model: nn.Module,
    records: Records,
    rows: torch.Tensor,
    patients: torch.Tensor,
    task: NoisedClassification,
    precision: Precision,
) -> Sums:
    outputs = [
        precision.outputs(model, records.inputs[some].to(records.device))
        for some in rows.split(_BATCH)
    ]
    known = task.bounded(torch.cat(outputs)).cpu()
    return task.patient_vectors(known, records.labels[rows].cpu(), patients)


def noised_sums(
    model: nn.Module,
    records: Records,
    task: NoisedClassification,
    sampling: SecretStream,
    noise: SecretStream,
    *,
    precision: Precision = FLOAT32,
) -> Sums:
    """What leaves where evaluation has noise; it must be paid for before.

    Args:
        model: On the device of the records.
        records: To judge on; noise alone leaves if there are none.
        task: Gives the sums, and says how much noise they have.
        sampling: Source of the choice of records.
        noise: Source of the noise.
        precision: How finely the network computes.
    """
    total = patient_sums(model, records, task, sampling, precision=precision)
    found: Sums = noise.noisy(torch.from_numpy(total), task.deviation).numpy()
    return found


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
    losses = (task.loss(*piece) for piece in pieces_of(model, records, task, precision))
    total = sum(float(loss.double().sum()) for loss in losses)
    return total / max(len(records), 1)


def pieces_of(
    model: nn.Module, records: Records, task: Task, precision: Precision
) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and truth, as many records at a time as there is room for."""
    each = math.prod(records.inputs.shape[1:])
    size = max(1, min(_BATCH, _NUMBERS // max(each, 1)))
    for inputs, labels in records.batches(size):
        if len(labels):
            yield precision.outputs(model, inputs), task.truth(inputs, labels)


def as_one(pieces: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """All pieces as one; none if there are none."""
    found = list(pieces)
    if found:
        outputs, truth = zip(*found, strict=True)
        yield torch.cat(outputs), torch.cat(truth)
