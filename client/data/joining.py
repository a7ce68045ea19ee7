"""Columns from other tables, and the rows that are this hospital's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fedward.client.data.cells import Cells, Read, Wanted
from fedward.client.data.csv_file import read_csv
from fedward.client.data.delimiters import delimiter_of
from fedward.client.data.faults import Faults
from fedward.client.data.records import Fact
from fedward.client.data.sources import Join, TabularSource
from fedward.study.any_data import label_text
from fedward.study.errors import DataError

_NAMED = 5  # rows that are told by number


def joined(
    source: TabularSource, read: Read, wanted: Wanted, folder: Path, faults: Faults
) -> tuple[Cells, list[Fact]]:
    """The rows of a hospital, with the columns of all its tables.

    Args:
        source: Names the other tables.
        read: Reads the first table.
        wanted: The study's columns.
        folder: Of the hospital's file.
        faults: Told of rows that another table lacks.

    Returns:
        The cells; and how many rows were left out, and why.

    Raises:
        DataError: A table cannot be read, or a column is in two tables.
    """
    keys = frozenset(join.on for join in source.joined)
    wanted = wanted.and_texts(keys | frozenset(source.only))
    cells, facts = read(wanted), []
    for join in source.joined:
        cells, fact = _with(cells, join, wanted, folder, faults)
        facts += fact
    for column, values in source.only.items():
        own = cells.need(column).map(label_text).isin([label_text(value) for value in values])
        cells = cells.only(own)
    if source.only:
        columns = ", ".join(map(repr, source.only))
        facts.append(Fact("chosen", f"{len(cells.frame)} of {cells.size} rows, by {columns}"))
    return cells, facts


def _with(
    cells: Cells, join: Join, wanted: Wanted, folder: Path, faults: Faults
) -> tuple[Cells, list[Fact]]:
    delimiter = join.delimiter or delimiter_of(join.path)
    more = read_csv(folder / join.path, wanted.as_text(), delimiter=delimiter)
    keys, theirs = cells.need(join.on), more.need(join.on)
    if (twice := theirs.duplicated()).any():
        row = int(twice.to_numpy().argmax())
        raise DataError(
            f"row {row + 1}, column {join.on!r}: the value stood in an earlier row",
            todo="a table that is joined names each once",
            where=more.where,
        )
    both = [name for name in more.frame if name in cells.frame and name != join.on]
    if both:
        raise DataError(
            f"column {both[0]!r} is also in {cells.where}",
            todo="rename one in columns_are or in its file",
            where=more.where,
        )
    found = keys.isin(theirs)
    lost = list(keys.index[~found.to_numpy()])
    if join.unmatched == "refuse":
        for row in lost:
            error = DataError(
                f"row {row + 1}, column {join.on!r}: the value is not in {join.path} "
                f"({len(lost)} such rows)",
                todo='add it, or set unmatched = "drop" in [data] join of hospital.toml',
                where=cells.where,
            )
            faults.add(error, int(row))
    facts = [Fact("left out", f"{len(lost)} rows that are not in {join.path}: {rows_named(lost)}")]
    kept = cells.frame[found]
    added = more.frame.set_index(join.on).loc[kept[join.on]].set_index(kept.index)
    frame = pd.concat([kept, added], axis=1)
    columns = (*cells.columns, *(name for name in more.columns if name != join.on))
    marks = cells.marks | more.marks
    whole = replace(cells, frame=frame, columns=columns, marks=marks)
    return whole, facts if lost and join.unmatched == "drop" else []


def rows_named(rows: list[int]) -> str:
    """The first rows of a list by their numbers, from 1, as people count."""
    shown = ", ".join(str(row + 1) for row in rows[:_NAMED])
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
