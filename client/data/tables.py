"""Tables: rows of a CSV file, or of a data set that comes with a library."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords, numbered, without_faulty
from fedward.client.data.sources import AnySource, BundledSource, CsvSource
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.study import Study
from fedward.study.table_data import Feature, TableData

Strings = pd.DataFrame
_LARGEST = 1e18  # its square is still a float32


def read_table(source: CsvSource | BundledSource, study: Study, context: Context) -> RawRecords:
    """The rows that a study asks for.

    Args:
        source: Where the table is.
        study: Which columns it needs.
        context: The hospital's folder, and who is told of rows that cannot be used.

    Raises:
        DataError: A file, a column or a value is not as the study needs it; the message names it.
    """
    where, cells = _cells(source, context.folder)
    marks = source.missing if isinstance(source, CsvSource) else ()
    return from_cells(cells, source, study, context.faults, where=where, marks=marks)


def from_cells(
    cells: Strings,
    source: AnySource,
    study: Study,
    faults: Faults,
    *,
    where: str,
    marks: Sequence[str] = (),
) -> RawRecords:
    """The records of a table that was read.

    Args:
        cells: Its values as text, by the hospital's names of columns; the index is the row.
        source: Names the patients' column.
        study: Which columns it needs.
        faults: Told of rows that cannot be used.
        where: The table, for errors.
        marks: What stands for a value that is not there, beside nothing at all.

    Raises:
        DataError: A column or a value is not as the study needs it; the message names it.
    """
    data = study.data
    if not isinstance(data, TableData):
        raise DataError(
            f"is a table, but the study asks for {data.kind}",
            todo="point [data] in hospital.toml to the right files",
            where=where,
        )
    cells = cells.rename(columns={theirs: ours for ours, theirs in source.columns_are.items()})
    column = [] if source.named_by is None else [source.named_by]
    wanted = [*data.features, *data.label_columns, *column]
    if absent := [column for column in wanted if column not in cells.columns]:
        raise DataError(
            f"has no column {absent[0]!r}",
            todo=f"columns found: {', '.join(map(str, cells.columns))}",
            where=where,
        )
    whole = _without_missing(cells[wanted], {"", *marks}, data, faults, where=where)
    blocks = [_inputs(whole[name], spec, where, faults) for name, spec in data.features.items()]
    parts = cells["part"].loc[whole.index].to_numpy(dtype=str) if "part" in cells else None
    rows = whole.index.to_numpy(dtype=np.int64)
    labels = targets(
        [list(whole[column]) for column in data.label_columns],
        data,
        study.task,
        where=f"{where}: column {', '.join(map(repr, data.label_columns))}",
        rows=list(rows),
        faults=faults,
    )
    names = whole[column[0]].to_numpy(dtype=str) if column else rows.astype(str)
    found = RawRecords(
        inputs=np.concatenate(blocks, axis=1).astype(np.float32),
        labels=labels,
        patients=numbered(names),
        names=names,
        rows=rows,
        parts=parts,
        dropped=len(cells) - len(whole),
    )
    return without_faulty(found, faults)


def read_column(source: CsvSource, folder: Path, column: str) -> NDArray[np.str_]:
    """One column as text, for a split by site.

    Raises:
        DataError: The file cannot be read or has no such column.
    """
    where, cells = _cells(source, folder)
    if column not in cells.columns:
        raise DataError(
            f"has no column {column!r}",
            todo=f"columns found: {', '.join(map(str, cells.columns))}",
            where=where,
        )
    return cells[column].to_numpy(dtype=str)


def _cells(source: CsvSource | BundledSource, folder: Path) -> tuple[str, Strings]:
    if isinstance(source, BundledSource):
        return f"scikit-learn's {source.name}", _bundled()
    path = folder / source.path
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # lines of another length
            cells = pd.read_csv(
                path,
                sep=source.delimiter,
                header=None if source.columns else 0,
                names=list(source.columns) if source.columns else None,
                dtype=str,
                keep_default_na=False,
                skipinitialspace=True,
                index_col=False,
            )
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(path)) from None
    except (OSError, ValueError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"cannot be read as a table ({error})", todo="give a CSV file", where=str(path)
        ) from None
    return str(path), cells.reset_index(drop=True)


def _bundled() -> Strings:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    cells = pd.DataFrame(
        bunch.data, columns=[name.replace(" ", "_") for name in bunch.feature_names]
    )
    cells["diagnosis"] = [bunch.target_names[target] for target in bunch.target]
    return cells.astype(str)


def _without_missing(
    cells: Strings, marks: set[str], data: TableData, faults: Faults, *, where: str
) -> Strings:
    missing = cells.isin(marks)
    bad = missing.any(axis=1)
    for place in np.flatnonzero(bad.to_numpy()) if data.missing == "refuse" else ():
        row = int(cells.index[int(place)])
        column = missing.columns[missing.iloc[place].to_numpy()][0]
        error = DataError(
            f"row {row + 1}, column {column!r}: the value is missing "
            f"({cells.iloc[place][column]!r}; {int(bad.sum())} such rows)",
            todo='fill it in, or set missing = "drop" in the study\'s [data]',
            where=where,
        )
        faults.add(error, row)
    return cells[~bad]


def _inputs(
    cells: pd.Series[str], feature: Feature, where: str, faults: Faults
) -> NDArray[np.float64]:
    numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64)
    if feature.categories is not None:
        return _one_hot(cells, numbers, feature, where, faults)
    scaled = (numbers - feature.center) / feature.scale
    bad = ~(np.abs(scaled) <= _LARGEST)
    rows = cells.index.to_numpy()
    for place in np.flatnonzero(bad):
        row = int(rows[place])
        error = DataError(
            f"row {row + 1}, column {cells.name!r}: "
            f"{cells.iloc[place]!r} is not a finite number of ordinary size",
            todo="mend the value, or name its mark in [data] missing of hospital.toml",
            where=where,
        )
        faults.add(error, row)
    scaled[bad] = 0.0
    if feature.bounds is not None:
        scaled = np.clip(scaled, *feature.bounds)
    if feature.absent is None:
        return scaled[:, None]
    absent = numbers == feature.absent
    return np.stack([np.where(absent, 0.0, scaled), absent], axis=1)


def _one_hot(
    cells: pd.Series[str],
    numbers: NDArray[np.float64],
    feature: Feature,
    where: str,
    faults: Faults,
) -> NDArray[np.float64]:
    categories = feature.categories or ()
    text = cells.to_numpy(dtype=str)
    columns = [
        text == category if isinstance(category, str) else numbers == float(category)
        for category in categories
    ]
    hot = np.stack(columns, axis=1)
    rows = cells.index.to_numpy()
    for place in np.flatnonzero(~hot.any(axis=1)):
        row = int(rows[place])
        error = DataError(
            f"row {row + 1}, column {cells.name!r}: "
            f"{str(text[place])!r} is no category of the study",
            todo=f"allowed: {', '.join(map(str, categories))}",
            where=where,
        )
        faults.add(error, row)
    return hot.astype(np.float64)
