"""The table of labels that lies beside a hospital's files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from fedward.client.data.delimiters import delimiter_of
from fedward.study.errors import DataError

_LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class LabelTable:
    """A CSV file with a row for each record.

    Attributes:
        path: The file.
        columns: Their names, in the file's order.
        rows: Every row, by the names of the columns.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[dict[str, str], ...]

    def column(self, name: str) -> list[str]:
        """All values of a column.

        Raises:
            DataError: There is none of that name.
        """
        if name not in self.columns:
            raise DataError(
                f"has no column {name!r}",
                todo=f"columns found: {', '.join(self.columns)}",
                where=str(self.path),
            )
        return [row[name] for row in self.rows]


def read_labels(path: Path) -> LabelTable:
    """Read a table of labels.

    Args:
        path: A CSV file (or `.tsv`) with a header line, UTF-8; a mark of Excel's at its start does
            no harm.

    Raises:
        DataError: It is not there, or no such table.
    """
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError("is too large for a table", todo="check the path", where=str(path))
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines, delimiter=delimiter_of(path.name))
            rows = tuple(reader)
            columns = tuple(reader.fieldnames or ())
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(path)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as a table ({error})", todo="give a CSV file", where=str(path)
        ) from None
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise DataError(
                f"row {number + 1} has another number of columns than the first line",
                todo="mend the table",
                where=str(path),
            )
    return LabelTable(path, columns, rows)
