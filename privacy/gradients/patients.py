"""Whose the records of a pass are: a patient's records are more positions of one longer example."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from torch import Tensor


class Patients:
    """How many records each patient has, patient by patient.

    Attributes:
        number: Of patients.
        records: Of all patients together (n).
        most: Of one patient.
    """

    def __init__(self, counts: Tensor, device: torch.device) -> None:
        """Lay the patients out.

        Args:
            counts: Records of each patient, shape (patients,), int64, on the CPU, each at least 1.
            device: Of the gradients.
        """
        self._counts, self._device = counts, device
        self.number = len(counts)
        self.records = int(counts.sum())
        self.most = int(counts.max())
        self._ends = counts.cumsum(0)
        self._even = self.records == self.number * self.most

    @functools.cached_property
    def _place(self) -> Tensor:
        """Of each record's patient, shape (n,)."""
        return torch.arange(self.number).repeat_interleave(self._counts).to(self._device)

    @functools.cached_property
    def _row(self) -> Tensor:
        """Of each record, where every patient has `most` rows, shape (n,)."""
        first = (self._ends - self._counts).repeat_interleave(self._counts)
        return self._place * self.most + (torch.arange(self.records) - first).to(self._device)

    @property
    def sparse(self) -> bool:
        """More than half of the rows that `joined` makes would be empty."""
        return 2 * self.records < self.number * self.most

    def added(self, apart: Tensor) -> Tensor:
        """Sums over each patient's records: (n, ...) to (patients, ...)."""
        if self.most == 1:
            return apart
        if self._even:
            apart = apart.unflatten(0, (self.number, self.most))
            return apart.sum(dim=1)
        sums = apart.new_zeros((self.number, *apart.shape[1:]))
        return sums.index_add_(0, self._place, apart)

    def joined(self, rows: Tensor) -> Tensor:
        """Each patient's rows beside each other, those that are missing 0.

        Args:
            rows: Shape (n, groups, positions, ...).

        Returns:
            Shape (patients, groups, most * positions, ...).
        """
        if self.most == 1:
            return rows
        if not self._even:
            wide = rows.new_zeros((self.number * self.most, *rows.shape[1:]))
            rows = wide.index_copy_(0, self._row, rows)
        rows = rows.unflatten(0, (self.number, self.most))
        return rows.transpose(1, 2).flatten(2, 3)

    def each(self, factors: Tensor) -> Tensor:
        """What belongs to patients, given to their records: (patients,) to (n,)."""
        return factors if self.most == 1 else factors[self._place]

    def parts(self, size: int) -> Iterator[tuple[slice, Patients]]:
        """Some patients at a time, with where their records are.

        Args:
            size: Most patients in a part.
        """
        if size >= self.number:
            yield slice(0, self.records), self
            return
        ends = [0, *self._ends.tolist()]
        for first in range(0, self.number, size):
            counts = self._counts[first : first + size]
            where = slice(ends[first], ends[first + len(counts)])
            yield where, Patients(counts, self._device)
