"""Files of a hospital's folder, which a listing of it or the rows of a table name.

A table is written by many hands: what it names has to be in the folder. A link in the folder may
lead anywhere, for the hospital itself made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, NamedTuple

from fedward.client.data.decoded import State, file_key, state_of
from fedward.client.data.labelled import LabelTable
from fedward.client.data.unchanged import unchanged
from fedward.study.errors import DataError

_SHOWN = 100  # signs of a name


def path_in(folder: Path, name: str, table: Path, row: int) -> Path:
    """Where a file is that a row of a table names.

    Args:
        folder: That its names are in.
        name: As the row has it.
        table: The table, for the error.
        row: Number of the row, from 0.

    Raises:
        DataError: The name leads out of the folder; or it may, for `a/..` is elsewhere if `a` is a
            link.
    """
    steps = PurePath(name)
    if steps.is_absolute() or ".." in steps.parts:
        raise DataError(
            f"row {row + 1} names a file outside the folder, {name[:_SHOWN]!r}",
            todo="give its path in the folder, which begins with no / and has no .. in it",
            where=str(table),
        )
    return folder / name


class NamedFile(NamedTuple):
    """A file in the state in which it was found, or why it is not even looked for.

    Attributes:
        path: The file; the folder where there is a fault.
        state: Of the file.
        fault: Why it cannot be used; None if it may be there.
    """

    path: Path
    state: State
    fault: DataError | None = None

    @classmethod
    def found(cls, path: Path) -> NamedFile:
        """A file of which we know that it is in the folder."""
        return cls(path, state_of(path))

    @classmethod
    def of_row(cls, folder: Path, name: str, table: Path, row: int) -> NamedFile:
        """The file that a row of a table names; see `path_in`, whose error is its fault."""
        try:
            return cls.found(path_in(folder, name, table, row))
        except DataError as error:
            return cls(folder, (), error)

    def key(self, folder: Path, *rest: object) -> str:
        """What it holds, as `file_key`."""
        if self.fault is not None:
            return repr((self.fault.line(), *rest))
        return file_key(self.path, folder, *rest, state=self.state)

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The file to read from, as `unchanged`.

        Raises:
            DataError: Its fault; or it was changed since, or is a pipe or the like.
            OSError: It cannot be opened or read.
        """
        if self.fault is not None:
            raise self.fault
        with unchanged(self.path, self.state) as content:
            yield content


def files_of(folder: Path, names: list[str], table: LabelTable) -> list[NamedFile]:
    """The files that a column of a table names, one for each row."""
    return [NamedFile.of_row(folder, name, table.path, row) for row, name in enumerate(names)]
