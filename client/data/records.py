"""Records as a study asks for them: inputs, labels, patients, and which part each is for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedward.client.data.faults import Faults
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError
from fedward.study.messages import Part


class Fact(NamedTuple):
    """What a reader saw, for the hospital's own staff: it has true numbers.

    Attributes:
        word: What it is about.
        text: The rest of the line.
    """

    word: str
    text: str


@dataclass(frozen=True)
class RawRecords:
    """What a reader found, before it was divided into parts.

    Attributes:
        inputs: Shape (n, *input_shape), float32, scaled as the study says; or int64, the numbers of
            tokens. They may stay on disk.
        labels: As the task has them (`study/task.py`), n of them. Masks may stay on disk.
        patients: Number of each record's patient, shape (n,), int64.
        names: What the hospital calls that patient, shape (n,), text; the record's place in the
            file (or the image's name) where every record is a patient.
        rows: Place of each record in the file, from 0, shape (n,), int64.
        parts: Part of each record as the file says, shape (n,); None if it does not say.
        dropped: Records that were left out because the study or the hospital's file says so, such
            as those that lack a value.
        facts: What the reader saw in the whole file, such as why and how many were left out.
        cells: For each record the place of its cell in each of the study's subgroups, -1 for none,
            shape (n, subgroups); None where the study has none or the reader knows none.
    """

    inputs: NDArray[np.float32] | NDArray[np.int64] | Stored
    labels: NDArray[np.int64] | NDArray[np.float32] | NDArray[np.uint8] | Stored
    patients: NDArray[np.int64]
    names: NDArray[np.str_]
    rows: NDArray[np.int64]
    parts: NDArray[np.str_] | None = None
    dropped: int = 0
    facts: tuple[Fact, ...] = ()
    cells: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self.labels)

    @property
    def strata(self) -> NDArray[np.int64]:
        """What is worth keeping in equal shares when records are divided, shape (n,).

        The class; for survival whether the event was seen; else nothing.
        """
        labels = self.labels
        if isinstance(labels, Stored):
            return np.zeros(len(labels), dtype=np.int64)
        if labels.ndim == 1 and labels.dtype == np.int64:
            return labels.astype(np.int64)
        if labels.ndim == 2 and labels.shape[1] == 2:
            return labels[:, 1].astype(np.int64)
        return np.zeros(len(labels), dtype=np.int64)

    @property
    def whole(self) -> NDArray[Any]:
        """All inputs in memory."""
        return self.inputs[:].numpy() if isinstance(self.inputs, Stored) else self.inputs

    @property
    def whole_labels(self) -> NDArray[Any]:
        """All labels in memory."""
        return self.labels[:].numpy() if isinstance(self.labels, Stored) else self.labels

    def chosen(self, mask: NDArray[np.bool_]) -> RawRecords:
        """Only the records where the mask is true."""
        inputs, labels = self.inputs, self.labels
        return replace(
            self,
            inputs=inputs.chosen(mask) if isinstance(inputs, Stored) else inputs[mask],
            labels=labels.chosen(mask) if isinstance(labels, Stored) else labels[mask],
            patients=self.patients[mask],
            names=self.names[mask],
            rows=self.rows[mask],
            parts=None if self.parts is None else self.parts[mask],
            cells=None if self.cells is None else self.cells[mask],
        )


def without_faulty(raw: RawRecords, faults: Faults) -> RawRecords:
    """The records that can be used; the others count as dropped."""
    if not faults.rows:
        return raw
    good = raw.chosen(~np.isin(raw.rows, list(faults.rows)))
    return replace(good, dropped=raw.dropped + len(raw) - len(good))


def refuse_nameless(raw: RawRecords, faults: Faults) -> RawRecords:
    """The records whose patient has a name: nobody knows how many patients the others are.

    Args:
        raw: The records, of which a file says the patients.
        faults: Told of those without a name.

    Raises:
        DataError: There is one.
    """
    nameless = np.flatnonzero(np.char.strip(raw.names) == "")
    for row in raw.rows[nameless].tolist():
        faults.add(DataError(f"record {row + 1} has no patient", todo="name one"), row)
    return without_faulty(raw, faults) if len(nameless) else raw


def with_same_patients(
    raw: RawRecords, groups: Sequence[Sequence[str]], faults: Faults
) -> RawRecords:
    """The same records, where several names that are one patient's became one name.

    Args:
        raw: The records.
        groups: Names that are one patient's, each in one group only; the first one is kept.
        faults: Where records were left out as faulty, a name may be missing with them.

    Raises:
        DataError: No record has such a name, so that a misspelling would make one patient two.
    """
    if not groups:
        return raw
    whole = not faults.rows
    first = np.zeros(int(raw.patients.max(initial=-1)) + 1, dtype=np.int64)
    first[raw.patients[::-1]] = np.arange(len(raw))[::-1]  # where each is seen first
    names = raw.names[first].astype(object)
    known = set(names)
    for number, group in enumerate(groups):
        if whole and not known.issuperset(group):
            raise DataError(
                f"no record is of a patient that [data] same_patient names (group {number + 1})",
                todo="mend same_patient in hospital.toml",
            )
        same = set(group)
        names[np.array([name in same for name in names], dtype=bool)] = group[0]
    text = names.astype(str)
    return replace(raw, names=text[raw.patients], patients=numbered(text)[raw.patients])


@dataclass(frozen=True)
class Records:
    """One part, ready for a model.

    Attributes:
        inputs: Shape (n, *input_shape), float32 or int64; on the device, or on disk.
        labels: As the task has them (`study/task.py`), n of them; on the device, or masks on disk.
        patients: Shape (n,), int64.
        people: Digest of the names of their patients, in order; empty where nobody has a name.
        cells: As in `RawRecords`.
    """

    inputs: Tensor | Stored
    labels: Tensor | Stored
    patients: Tensor
    people: bytes = b""
    cells: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self.labels)

    @property
    def whole(self) -> Tensor:
        """All inputs in memory."""
        return self.inputs[:] if isinstance(self.inputs, Stored) else self.inputs

    @property
    def whole_labels(self) -> Tensor:
        """All labels in memory."""
        return self.labels[:] if isinstance(self.labels, Stored) else self.labels

    @property
    def device(self) -> torch.device:
        """Where they are used."""
        return self.patients.device

    def first(self, count: int) -> Records:
        """The first so many records."""
        rows, inputs, labels = slice(count), self.inputs, self.labels
        return Records(
            inputs.chosen(rows) if isinstance(inputs, Stored) else inputs[rows],
            labels.chosen(rows) if isinstance(labels, Stored) else labels[rows],
            self.patients[rows],
            self.people,
            None if self.cells is None else self.cells[rows],
        )

    def to(self, device: torch.device) -> Records:
        """The same records on a device; what is on disk stays there, and comes batch by batch."""
        inputs, labels = (
            rows if isinstance(rows, Stored) else rows.to(device)
            for rows in (self.inputs, self.labels)
        )
        return Records(inputs, labels, self.patients.to(device), self.people, self.cells)

    def batch(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and labels of some records, on the device."""
        chosen = chosen.to(self.device)
        return self.inputs[chosen].to(self.device), self.labels[chosen].to(self.device)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of all records in their order, so many at once, on the device."""
        for inputs, labels in zip(self.inputs.split(size), self.labels.split(size), strict=True):
            yield inputs.to(self.device), labels.to(self.device)


Parts = dict[Part, Records]


def as_text(names: NDArray[np.generic]) -> NDArray[np.str_]:
    """Names of any type as text; different names stay different, and what is none is empty."""
    if names.dtype.kind in "fcmM":
        none = np.isnat(names) if names.dtype.kind in "mM" else np.isnan(names)
        return np.where(none, "", names.astype(str))
    if names.dtype.kind == "S":
        return np.char.decode(names.astype(np.bytes_), "latin-1")
    return names.astype(str)


def numbered(patients: NDArray[np.generic]) -> NDArray[np.int64]:
    """Patients' names as numbers 0, 1, ... in order of appearance."""
    if patients.dtype.kind == "U":  # many, and a hash is faster than a sort
        return pd.factorize(patients.astype(object))[0].astype(np.int64)
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers: NDArray[np.int64] = rank[inverse.reshape(-1)]
    return numbers
