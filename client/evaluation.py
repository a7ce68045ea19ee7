"""Judging a model on one part of a hospital's records, as sums."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from fedward.client.data.records import Records
from fedward.models.noised_task import NoisedClassification
from fedward.models.task import Classification, Sums
from fedward.privacy.patient_steps import at_most
from fedward.privacy.precision import FLOAT32, Precision
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.statistics import clipped_sum

_BATCH = 512
_PATIENTS = 512  # whose sums are apart at the same time


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
        rows = chosen.records[here].to(records.labels.device)
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
    outputs = [precision.outputs(model, records.inputs[some]) for some in rows.split(_BATCH)]
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
