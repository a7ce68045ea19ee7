"""Records with measured constants: what is measured of them, and how they are scaled."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedward.client.data.records import Parts, Records
from fedward.client.data.stored import Stored, in_pieces
from fedward.privacy.patient_steps import at_most
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.statistics import clipped_sum, norm_of, patient_vectors
from fedward.study.data import Data
from fedward.study.scaling import Scaling

Doubles = np.ndarray[tuple[int], np.dtype[np.float64]]


def measured_sums(records: Records, data: Data) -> Doubles:
    """What a hospital adds without privacy: its number of patients, and the sums over them."""
    inputs, patients = _arrays(records)
    vectors = patient_vectors(inputs, patients, data)
    return np.concatenate([[len(vectors)], vectors.sum(axis=0)])


def noisy_sums(
    records: Records,
    data: Data,
    *,
    most: int,
    noise_multiplier: float,
    declared: int,
    sampling: SecretStream,
    noise: SecretStream,
) -> Doubles:
    """What a hospital adds with privacy on; it must be paid for before.

    Args:
        records: To train on.
        data: The study's.
        most: Records that a patient brings, drawn at random.
        noise_multiplier: Standard deviation of the noise, in units of a patient's largest norm.
        declared: Public number of patients.
        sampling: Source of the choice of records.
        noise: Source of the noise.
    """
    inputs, patients = _arrays(records)
    everybody = torch.arange(len(patients))
    _, number = torch.from_numpy(patients).unique(return_inverse=True)
    chosen = at_most(most, everybody, number, sampling)
    rows = chosen.records.numpy()
    norm = norm_of(data)
    total = clipped_sum(patient_vectors(inputs[rows], patients[rows], data), norm)
    noisy = noise.noisy(torch.from_numpy(total), noise_multiplier * norm)
    return np.concatenate([[declared], noisy.numpy()])


def scaled(parts: Parts, data: Data, scaling: Scaling) -> Parts:
    """The same records with their measured features centered and scaled."""
    return {part: _scaled(records, data, scaling) for part, records in parts.items()}


def _scaled(records: Records, data: Data, scaling: Scaling) -> Records:
    def change(rows: Tensor) -> Tensor:
        return _centered(rows, data, scaling)

    inputs = records.inputs
    inputs = inputs.mapped(change) if isinstance(inputs, Stored) else change(inputs)
    return Records(inputs, records.labels, records.patients, records.people)


def _centered(rows: Tensor, data: Data, scaling: Scaling) -> Tensor:
    inputs = rows.clone()
    for feature, center, scale in zip(data.measured, scaling.centers, scaling.scales, strict=True):
        values = (inputs[:, feature.place].double() - center) / scale
        if feature.absent is not None:
            values[inputs[:, feature.absent] > 0] = 0.0
        inputs[:, feature.place] = values.float()
    return inputs


def _arrays(
    records: Records,
) -> tuple[
    np.ndarray[tuple[int, int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.int64]]
]:
    inputs = np.concatenate([piece.astype(np.float64) for piece in in_pieces(records.inputs)])
    return inputs, records.patients.long().cpu().numpy()
