"""What becomes of a record that cannot be used: an error at once, or a line in a list of all."""

from __future__ import annotations

from collections.abc import Container

from fedward.study.errors import DataError


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


class ListedFaults(Faults):
    """Where data is only looked at, everything is told; a reader leaves these records out.

    Attributes:
        found: Every fault, with its record's place in the file.
    """

    def __init__(self) -> None:
        self.found: list[tuple[int, DataError]] = []

    def add(self, error: DataError, row: int) -> None:
        """Write it down."""
        self.found.append((row, error))

    def keep(self, rows: Container[int]) -> None:
        """Forget the records that are not this hospital's."""
        self.found = [(row, error) for row, error in self.found if row in rows]

    @property
    def rows(self) -> set[int]:
        """Places of the records that cannot be used."""
        return {row for row, _ in self.found}


STRICT = Faults()
"""One faulty record is an error."""
