"""What a hospital adds of its subgroups, and of its patients drawn anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.client.evaluation import as_one, pieces_of
from fedward.models.resampled import Resampled, Taken
from fedward.models.tasks.any_task import Sums, Task
from fedward.privacy.precision import FLOAT32, Precision

_AT_ONCE = 64  # records whose sums are apart at the same time


class _Group(NamedTuple):
    """Everybody, or one cell.

    Attributes:
        rows: Its records, rising, shape (m,).
        of: The place of each one's patient among its patients, shape (m,).
        drawn: How often each of its patients counts, shape (replicates, patients).
    """

    rows: NDArray[np.int64]
    of: NDArray[np.int64]
    drawn: NDArray[np.uint8]


@torch.inference_mode()
def subgroup_sums(
    model: nn.Module,
    records: Records,
    form: Resampled,
    rng: np.random.Generator,
    *,
    bounded: bool = False,
    precision: Precision = FLOAT32,
) -> Sums:
    """Patients, metric sums of each cell, and replicates of the sums, shape (form.size,).

    Args:
        model: On the device of the records.
        records: The test part, with its cells.
        form: The study's.
        rng: Draws how often each patient counts, for everybody and for each cell anew: one draw
            for all would be a patient's fingerprint, which links its cells. It must be nobody
            else's.
        bounded: As for `metric_sums`.
        precision: How finely the network computes.
    """
    model.eval()
    cells = _cells_of(records, form)
    people = records.patients.cpu().numpy()
    groups = [_group(np.flatnonzero(member), people, form, rng) for member in form.members(cells)]
    pieces = _bounded(pieces_of(model, records, form.task, precision), form.task, bounded=bounded)
    add = _all_together if form.task.whole else _one_by_one
    sums, replicates = add(pieces, form, groups)
    patients = [group.drawn.shape[1] for group in groups]
    elsewhere = [len(np.unique(people[outside])) for outside in form.elsewhere(cells)]
    return form.packed(
        Taken(np.array(patients, float), np.array(elsewhere, float), sums[1:], replicates)
    )


def _group(
    rows: NDArray[np.int64], people: NDArray[np.int64], form: Resampled, rng: np.random.Generator
) -> _Group:
    own, of = np.unique(people[rows], return_inverse=True)
    return _Group(rows, of, form.drawn(len(own), rng))


def _cells_of(records: Records, form: Resampled) -> NDArray[np.int64]:
    groups = len(form.table.subgroups)
    if records.cells is None:
        if groups:
            raise ValueError("a study with subgroups, and records of which nobody knows any")
        return np.zeros((len(records), 0), dtype=np.int64)
    return records.cells


def _bounded(
    pieces: Iterator[tuple[Tensor, Tensor]], task: Task, *, bounded: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    for outputs, truth in pieces:
        yield (task.bounded(outputs) if bounded else outputs), truth


def _one_by_one(
    pieces: Iterator[tuple[Tensor, Tensor]], form: Resampled, groups: Sequence[_Group]
) -> tuple[Sums, Sums]:
    """A record's sums depend on no other's: they are made once, and added as often as it counts."""
    task = form.task
    sums = np.zeros((len(groups), task.size))
    replicates = np.zeros((len(groups), form.table.replicates, task.size))
    start = 0
    for outputs, truth in pieces:
        for some, true in zip(outputs.split(_AT_ONCE), truth.split(_AT_ONCE), strict=True):
            each = zip(some.split(1), true.split(1), strict=True)
            rows = np.stack([task.sums(*record) for record in each])
            for place, group in enumerate(groups):
                here = slice(*np.searchsorted(group.rows, (start, start + len(rows))))
                if len(own := rows[group.rows[here] - start]):
                    sums[place] += own.sum(axis=0)
                    replicates[place] += group.drawn[:, group.of[here]] @ own
            start += len(rows)
    return sums, replicates


def _all_together(
    pieces: Iterator[tuple[Tensor, Tensor]], form: Resampled, groups: Sequence[_Group]
) -> tuple[Sums, Sums]:
    """Records are compared with each other: each replicate is judged as a hospital of its own."""
    task = form.task
    sums = np.zeros((len(groups), task.size))
    replicates = np.zeros((len(groups), form.table.replicates, task.size))
    for outputs, truth in as_one(pieces):
        for place, group in enumerate(groups):
            if not len(group.rows):
                continue
            rows = torch.from_numpy(group.rows).to(outputs.device)
            sums[place] = task.sums(outputs[rows], truth[rows])
            for number, count in enumerate(group.drawn):
                chosen = np.repeat(group.rows, count[group.of])
                again = torch.from_numpy(chosen).to(outputs.device)
                if len(again):
                    replicates[place, number] = task.sums(outputs[again], truth[again])
    return sums, replicates
