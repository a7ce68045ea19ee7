"""What becomes of a record that cannot be used: an error at once, or a line in a list of all."""

from __future__ import annotations

import logging
from collections.abc import Container

from fedward.study.errors import DataError

_LOG = logging.getLogger("fedward.client")


class Unreadable(DataError):  # noqa: N818 - reads as the fact that it states
    """A file holds no record that can be read; a study may allow to leave such files out."""


class Faults:
    """In training one faulty record is an error at once: nothing is left out unsaid."""

    def add(self, error: DataError, row: int) -> None:
        """Tell of a record.

        Args:
            error: What is wrong with it.
            row: Its place in the file, from 0.

        Raises:
            DataError: The error itself.
        """
        raise error

    def leave_out(self, error: DataError, row: int) -> None:
        """Tell of a record that the study allows to leave out: in training a line of the log."""
        _LOG.warning("left out: %s", error)  # the error itself: logs that are sent on hide it

    @property
    def rows(self) -> set[int]:
        """Places of the records that cannot be used."""
        return set()


class ListedFaults(Faults):
    """Where data is only looked at, everything is told; a reader leaves these records out.

    Attributes:
        found: Every fault, with its record's place in the file.
        left_out: Every record that the study allows to leave out, likewise.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, DataError]] = []
        self.left_out: list[tuple[int, DataError]] = []

    def add(self, error: DataError, row: int) -> None:
        """Write it down."""
        self.found.append((row, error))

    def leave_out(self, error: DataError, row: int) -> None:
        """Write it down."""
        self.left_out.append((row, error))

    def keep(self, rows: Container[int]) -> None:
        """Forget the records that are not this hospital's."""
        self.found = [(row, error) for row, error in self.found if row in rows]
        self.left_out = [(row, error) for row, error in self.left_out if row in rows]

    @property
    def rows(self) -> set[int]:
        """Places of the records that cannot be used."""
        return {row for row, _ in self.found}


class Lenient(Faults):
    """Where the study allows it: files that cannot be read are left out, other faults are faults.

    Args:
        faults: Told of everything.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._left_out: set[int] = set()

    def add(self, error: DataError, row: int) -> None:
        """Leave the record out if it is unreadable; else as the other faults do.

        Whatever else is wrong with a record that is left out does not matter.
        """
        if row in self._left_out:
            return
        if not isinstance(error, Unreadable):
            self._faults.add(error, row)
            return
        self._left_out.add(row)
        self._faults.leave_out(error, row)

    @property
    def rows(self) -> set[int]:
        """Places of the records that cannot be used."""
        return self._faults.rows | self._left_out


STRICT = Faults()
"""One faulty record is an error."""
