"""Records with measured constants: what is measured of them, and how they are scaled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.client.data.records import Parts, Records
from fedward.client.data.stored import Stored, in_pieces
from fedward.privacy.patient_steps import at_most
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.statistics import clipped_sum, means_over, patient_vectors
from fedward.privacy.statistics_table import counts_classes, norm_with_table, table_rows
from fedward.privacy.summaries import summarized
from fedward.study.data import Data
from fedward.study.scaling import Scaling
from fedward.study.study import Study

Doubles = np.ndarray[tuple[int], np.dtype[np.float64]]
Rows = NDArray[np.float64]


def measured_sums(records: Records, study: Study) -> Doubles:
    """What a hospital adds without privacy: its number of patients, and the sums over them."""
    inputs, labels, patients = _arrays(records, study)
    vectors = _vectors(inputs, labels, patients, study)
    return np.concatenate([[len(vectors)], vectors.sum(axis=0)])


def noisy_sums(
    records: Records,
    study: Study,
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
        study: Says what is measured.
        most: Records that a patient brings, drawn at random.
        noise_multiplier: Standard deviation of the noise, in units of a patient's largest norm.
        declared: Public number of patients.
        sampling: Source of the choice of records.
        noise: Source of the noise.
    """
    inputs, labels, patients = _arrays(records, study)
    everybody = torch.arange(len(patients))
    _, number = torch.from_numpy(patients).unique(return_inverse=True)
    chosen = at_most(most, everybody, number, sampling)
    rows = chosen.records.numpy()
    norm = norm_with_table(study)
    total = clipped_sum(_vectors(inputs[rows], labels[rows], patients[rows], study), norm)
    noisy = noise.noisy(torch.from_numpy(total), noise_multiplier * norm)
    return np.concatenate([[declared], noisy.numpy()])


def scaled(parts: Parts, data: Data, scaling: Scaling) -> Parts:
    """The same records with their measured features centered and scaled."""
    return {part: _scaled(records, data, scaling) for part, records in parts.items()}


def _scaled(records: Records, data: Data, scaling: Scaling) -> Records:
    def change(rows: Tensor) -> Tensor:
        return centered(rows, data, scaling)

    inputs = records.inputs
    inputs = inputs.mapped(change) if isinstance(inputs, Stored) else change(inputs)
    return replace(records, inputs=inputs)


def centered(rows: Tensor, data: Data, scaling: Scaling) -> Tensor:
    """Rows of features, shape (n, features), with the measured ones centered and scaled."""
    inputs = rows.clone()
    for feature, center, scale in zip(data.measured, scaling.centers, scaling.scales, strict=True):
        values = (inputs[:, feature.place].double() - center) / scale
        if feature.absent is not None:
            values[inputs[:, feature.absent] > 0] = 0.0
        inputs[:, feature.place] = values.float()
    return inputs


def _vectors(
    inputs: Rows, labels: NDArray[np.generic], patients: NDArray[np.int64], study: Study
) -> Rows:
    """All that a patient adds: for scaling constants, and for the table where one is asked for."""
    vectors = patient_vectors(inputs, patients, study.data)
    table = means_over(table_rows(inputs, labels, study), patients)
    return np.concatenate([vectors, table], axis=1)


def _arrays(records: Records, study: Study) -> tuple[Rows, NDArray[np.generic], NDArray[np.int64]]:
    """What is summed up of inputs, labels where they are counted, and patients."""
    pieces = [summarized(piece, study.data) for piece in in_pieces(records.inputs)]
    labels: NDArray[np.generic] = (
        records.whole_labels.cpu().numpy()
        if counts_classes(study)
        else np.zeros((len(records), 0))  # masks may be too many for memory
    )
    return np.concatenate(pieces), labels, records.patients.long().cpu().numpy()
