"""What leaves beside a model's metric sums where a study has subgroups and intervals.

The bootstrap is over patients, and each hospital draws for its own: in a replicate a patient counts
k times, k from a Poisson distribution of mean 1 (Hanley and MacGibbon 2006; Chamandy et al. 2012).
The count of one patient depends on no other's, so the replicate sums of all hospitals add up to a
replicate of all patients together, and nobody has to know how many there are. Every figure is then
computed from added sums, as without resampling.

    [ patients | cells' metric sums | for everybody and each cell: replicates of its metric sums ]

The first block counts patients: all, those of each cell, those in no cell of each subgroup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.models.tasks.any_task import Sums, Task
from fedward.study.errors import StudyError
from fedward.study.evaluation import Evaluation
from fedward.study.study import Study

MOST = 2**23
"""Numbers that one hospital adds at most: 32 MiB, and what is no whole number counts twice."""


class Taken(NamedTuple):
    """The sums, taken apart; the first of `patients` and of `replicates` is everybody.

    Attributes:
        patients: Shape (1 + cells,).
        elsewhere: Patients in no cell of each subgroup, shape (subgroups,).
        cells: Metric sums of each cell, shape (cells, task.size).
        replicates: Shape (1 + cells, replicates, task.size).
    """

    patients: Sums
    elsewhere: Sums
    cells: Sums
    replicates: Sums


class Resampled:
    """The form of these sums for one study: known to everybody from the study alone."""

    def __init__(self, task: Task, table: Evaluation) -> None:
        """Take the task and the study's table.

        Raises:
            StudyError: The sums would be too many.
        """
        self.task, self.table = task, table
        self._cells, self._groups = len(table.cells), len(table.subgroups)
        if self.size > MOST:
            room = (MOST // task.size - self._cells) // (1 + self._cells)
            raise StudyError(
                "evaluation.replicates",
                given=f"{table.replicates}: {self.size} numbers would leave a hospital",
                allowed=f"at most {max(room - 1, 0)} with this task and these subgroups",
            )

    @property
    def size(self) -> int:
        """How many numbers."""
        return self._counts + self._blocks * self.task.size

    @property
    def reals(self) -> tuple[int, ...]:
        """Places that hold no whole numbers."""
        starts = range(self._counts, self.size, self.task.size)
        return tuple(start + place for start in starts for place in self.task.reals)

    @property
    def _counts(self) -> int:
        return 1 + self._cells + self._groups

    @property
    def _blocks(self) -> int:
        return self._cells + (1 + self._cells) * self.table.replicates

    def drawn(self, patients: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        """How often each patient counts in each replicate, shape (replicates, patients)."""
        counts = np.empty((self.table.replicates, patients), dtype=np.uint8)
        for row in counts:  # one by one: drawn at once they would take eight times the memory
            row[:] = rng.poisson(1.0, size=patients).clip(max=255)
        return counts

    def members(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records are of everybody and of each cell, shape (1 + cells, n).

        Args:
            cells: For each record the place of its cell in each subgroup, -1 for none, shape
                (n, subgroups).
        """
        found = [np.ones(len(cells), dtype=bool)]
        for number, (_, group) in enumerate(self.table.ordered):
            found += [cells[:, number] == place for place in range(len(group.names))]
        return np.stack(found)

    def elsewhere(self, cells: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which records are in no cell of each subgroup, shape (subgroups, n)."""
        outside: NDArray[np.bool_] = cells.T < 0
        return outside

    def packed(self, taken: Taken) -> Sums:
        """The sums one after another, shape (size,)."""
        return np.concatenate([part.reshape(-1) for part in taken])

    def taken(self, sums: Sums) -> Taken:
        """Take sums apart, shape (size,)."""
        ends = [1 + self._cells, self._counts, self._counts + self._cells * self.task.size]
        patients, elsewhere, cells, replicates = np.split(sums, ends)
        size = self.task.size
        return Taken(
            patients,
            elsewhere,
            cells.reshape(self._cells, size),
            replicates.reshape(1 + self._cells, self.table.replicates, size),
        )


def resampled_of(study: Study, task: Task) -> Resampled | None:
    """What leaves beside the metric sums of the test part; None in a study that asks for nothing.

    Raises:
        StudyError: It would be too much, or without the noise that the study's evaluation has.
    """
    if study.evaluation is None:
        return None
    if study.evaluation_noise is not None:
        raise StudyError(
            "evaluation",
            given="a table",
            allowed="none beside privacy.evaluation_noise_multiplier",
        )
    return Resampled(task, study.evaluation)


def interval(values: Sequence[float | None]) -> tuple[float, float] | None:
    """The 95 % percentile interval of a figure's replicates.

    None where there are none, or where more than one in twenty cannot be computed.
    """
    known = [value for value in values if value is not None]
    if not known or len(known) < 0.95 * len(values):
        return None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
