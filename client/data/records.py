"""Records as a study asks for them: inputs, labels, patients, and which part each is for."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.client.data.faults import Faults
from fedward.study.messages import Part


@dataclass(frozen=True)
class RawRecords:
    """What a reader found, before it was divided into parts.

    Attributes:
        inputs: Shape (n, *input_shape), float32, scaled as the study says.
        labels: As the task has them (`study/task.py`), n of them.
        patients: Number of each record's patient, shape (n,), int64.
        names: What the hospital calls that patient, shape (n,), text; the record's place in the
            file (or the image's name) where every record is a patient.
        rows: Place of each record in the file, from 0, shape (n,), int64.
        parts: Part of each record as the file says, shape (n,); None if it does not say.
        dropped: Records that were left out because a value was missing and the study allows it.
    """

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64] | NDArray[np.float32]
    patients: NDArray[np.int64]
    names: NDArray[np.str_]
    rows: NDArray[np.int64]
    parts: NDArray[np.str_] | None = None
    dropped: int = 0

    def __len__(self) -> int:
        """Number of records."""
        return len(self.labels)

    @property
    def strata(self) -> NDArray[np.int64]:
        """What is worth keeping in equal shares when records are divided, shape (n,).

        The class; for survival whether the event was seen; else nothing.
        """
        if self.labels.ndim == 1 and self.labels.dtype == np.int64:
            return self.labels.astype(np.int64)
        if self.labels.ndim == 2 and self.labels.shape[1] == 2:
            return self.labels[:, 1].astype(np.int64)
        return np.zeros(len(self.labels), dtype=np.int64)

    def chosen(self, mask: NDArray[np.bool_]) -> RawRecords:
        """Only the records where the mask is true."""
        parts = None if self.parts is None else self.parts[mask]
        return RawRecords(
            self.inputs[mask],
            self.labels[mask],
            self.patients[mask],
            self.names[mask],
            self.rows[mask],
            parts,
            self.dropped,
        )


def without_faulty(raw: RawRecords, faults: Faults) -> RawRecords:
    """The records that can be used; the others count as dropped."""
    if not faults.rows:
        return raw
    good = raw.chosen(~np.isin(raw.rows, list(faults.rows)))
    return replace(good, dropped=raw.dropped + len(raw) - len(good))


@dataclass(frozen=True)
class Records:
    """One part, ready for a model.

    Attributes:
        inputs: Shape (n, *input_shape), float32.
        labels: As the task has them (`study/task.py`), n of them.
        patients: Shape (n,), int64.
        people: Digest of the names of their patients, in order; empty where nobody has a name.
    """

    inputs: Tensor
    labels: Tensor
    patients: Tensor
    people: bytes = b""

    def __len__(self) -> int:
        """Number of records."""
        return len(self.labels)

    def first(self, count: int) -> Records:
        """The first so many records."""
        return Records(self.inputs[:count], self.labels[:count], self.patients[:count], self.people)

    def to(self, device: torch.device) -> Records:
        """The same records on a device."""
        return Records(
            self.inputs.to(device), self.labels.to(device), self.patients.to(device), self.people
        )


Parts = dict[Part, Records]


def as_text(names: NDArray[np.generic]) -> NDArray[np.str_]:
    """Names of any type as text; different names stay different."""
    if names.dtype.kind == "S":
        return np.char.decode(names.astype(np.bytes_), "latin-1")
    return names.astype(str)


def numbered(patients: NDArray[np.generic]) -> NDArray[np.int64]:
    """Patients' names as numbers 0, 1, ... in order of appearance."""
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers: NDArray[np.int64] = rank[inverse.reshape(-1)]
    return numbers
