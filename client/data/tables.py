"""Tables: a CSV file, or a data set that comes with a library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.cells import NOTHING, Cells, Wanted
from fedward.client.data.context import Context
from fedward.client.data.csv_file import read_csv
from fedward.client.data.delimiters import delimiter_of
from fedward.client.data.parts import PARTS
from fedward.client.data.records import RawRecords
from fedward.client.data.rows import records_of
from fedward.client.data.sources import BundledSource, CsvSource
from fedward.study.errors import DataError
from fedward.study.messages import Part
from fedward.study.study import Study


def read_table(source: CsvSource | BundledSource, study: Study, context: Context) -> RawRecords:
    """The rows that a study asks for.

    Args:
        source: Where the table is.
        study: Which columns it needs.
        context: The hospital's folder, and who is told of rows that cannot be used.

    Raises:
        DataError: A file, a column or a value is not as the study needs it; the message names it.
    """
    if isinstance(source, BundledSource):
        where = f"scikit-learn's {source.name}"
        return records_of(lambda wanted: _bundled(where), source, study, context, where=where)
    where = str(context.folder / source.path)
    return records_of(
        lambda wanted: _cells(source, context.folder, wanted), source, study, context, where=where
    )


def read_column(source: CsvSource, folder: Path, column: str) -> NDArray[np.str_]:
    """One column as text, for a split by site.

    Raises:
        DataError: The file cannot be read or has no such column.
    """
    cells = _cells(source, folder, Wanted(frozenset({column})))
    return cells.need(column).to_numpy(dtype=str)


def _cells(source: CsvSource, folder: Path, wanted: Wanted) -> Cells:
    path = folder / source.path
    if source.files is None:
        return _file(source, path, wanted)
    found = [
        _of_part(_file(source, path / source.files[part], wanted), source, part)
        for part in PARTS
        if part in source.files
    ]
    for column in found[0].frame:
        for cells in found[1:]:
            cells.need(str(column))
    if any(len({c.frame[name].dtype == float for c in found}) > 1 for name in found[0].frame):
        return _cells(source, folder, wanted.as_text())  # a column of one file is no number
    frame = pd.concat([cells.frame for cells in found], ignore_index=True, join="inner")
    return Cells(str(path), frame, found[0].marks, found[0].columns, len(frame))


def _of_part(cells: Cells, source: CsvSource, part: Part) -> Cells:
    """The rows of one part's file, with a column that says so.

    Raises:
        DataError: The file lacks a column that is in it, or has one that says the part.
    """
    column = source.column("part")
    if column in cells.columns:
        raise DataError(
            f"has a column {column!r}, and [data] files says the part too",
            todo="name the file as path, or take the column out",
            where=cells.where,
        )
    frame = cells.frame.assign(**{column: part})
    return replace(cells, frame=frame, columns=(*cells.columns, column))


def _file(source: CsvSource, path: Path, wanted: Wanted) -> Cells:
    return read_csv(
        path,
        wanted,
        delimiter=source.delimiter or delimiter_of(path.name),
        columns=source.columns,
        missing=source.missing,
    )


def _bundled(where: str) -> Cells:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    cells = pd.DataFrame(
        bunch.data, columns=[name.replace(" ", "_") for name in bunch.feature_names]
    )
    cells["diagnosis"] = [bunch.target_names[target] for target in bunch.target]
    return Cells(where, cells.astype(str), NOTHING, tuple(map(str, cells.columns)), len(cells))
