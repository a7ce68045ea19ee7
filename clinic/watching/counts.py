"""What a model saw lately, as counts: the whole of what is kept of its records.

The newest records are in `now`; when it has a window's worth, it becomes `before` and what was
there is forgotten. So between one and two windows are compared, in memory of a fixed size.

What is shown is computed anew only when as many records have come as a cell must have: whoever
looks before and after one record hardly ever sees a difference, and then one of as many together.
Records are counted, not patients: one who has as many records is not protected by this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from fedward.clinic.watching.cells import Places
from fedward.clinic.watching.drift import Drift
from fedward.study.frozen import Frozen

_Count = Annotated[int, Field(ge=0)]
_Table = tuple[tuple[_Count, ...], ...]


class Kept(Frozen):
    """The file of counts.

    Attributes:
        format: Of the file.
        reference: SHA-256 of the reference that they are compared with.
        window: Records of `before`, and the most of `now`.
        records: In `before` and in `now`.
        before: Counts, a row for each histogram.
        now: Likewise.
        unseen: Records since `shown` was computed.
        missed: Records that came faster than they could be counted, of all time.
        shown: What may be seen.
    """

    format: Literal[1] = 1
    reference: str
    window: Annotated[int, Field(ge=1)]
    records: tuple[_Count, _Count]
    before: _Table
    now: _Table
    unseen: _Count = 0
    missed: _Count = 0
    shown: tuple[Drift, ...] = ()

    @model_validator(mode="after")
    def _same_cells(self) -> Kept:
        if [*map(len, self.before)] != [*map(len, self.now)]:
            raise ValueError("the same cells before and now")
        return self


class Counts:
    """Counts that grow.

    Args:
        cells: Of each histogram.
        window: Records after which older ones begin to be forgotten.
        step: Records after which what is shown is computed anew.
    """

    def __init__(self, cells: Sequence[int], *, window: int, step: int) -> None:
        self.window, self.step = window, step
        self.before = [np.zeros(count, np.int64) for count in cells]
        self.now = [np.zeros(count, np.int64) for count in cells]
        self.records = [0, 0]
        self.unseen = 0
        self.missed = 0

    def add(self, placed: Sequence[Places]) -> bool:
        """Count records; whether what is shown has to be computed anew.

        Args:
            placed: For each histogram the cell of each record, below 0 for none.
        """
        count, start = len(placed[0]), 0
        while start < count:
            end = min(count, start + self.window - self.records[1])
            for cells, places in zip(self.now, placed, strict=True):
                some = places[start:end]
                cells += np.bincount(some[some >= 0], minlength=len(cells))
            self.records[1] += end - start
            start = end
            if self.records[1] == self.window and start < count:
                self._turn()
        self.unseen += count
        if self.unseen < self.step:
            return False
        self.unseen = 0
        return True

    def _turn(self) -> None:
        self.before, self.now = self.now, [np.zeros_like(cells) for cells in self.now]
        self.records = [self.records[1], 0]

    def lately(self) -> list[NDArray[np.float64]]:
        """Counts of the records that are compared."""
        both = zip(self.before, self.now, strict=True)
        return [(before + now).astype(np.float64) for before, now in both]

    def kept(self, reference: str, shown: tuple[Drift, ...]) -> Kept:
        """What goes into the file."""
        before, now = (
            tuple(tuple(cells.tolist()) for cells in table) for table in (self.before, self.now)
        )
        return Kept(
            reference=reference,
            window=self.window,
            records=(self.records[0], self.records[1]),
            before=before,
            now=now,
            unseen=self.unseen,
            missed=self.missed,
            shown=shown,
        )

    def restore(self, kept: Kept) -> None:
        """Go on where a file ends.

        Raises:
            ValueError: It has other cells.
        """
        if [*map(len, kept.now)] != [*map(len, self.now)]:
            raise ValueError("has other cells")
        self.before = [np.array(cells, np.int64) for cells in kept.before]
        self.now = [np.array(cells, np.int64) for cells in kept.now]
        self.records = [*kept.records]
        self.unseen, self.missed = kept.unseen, kept.missed
        if self.records[1] >= self.window:  # it was longer
            self._turn()
