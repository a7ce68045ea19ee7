"""Cells of Apache Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fedward.client.data.cells import NOTHING, Cells, Coded, Wanted, refuse_twins
from fedward.client.data.context import Context
from fedward.client.data.extras import need
from fedward.client.data.faults import ListedFaults
from fedward.client.data.records import RawRecords
from fedward.client.data.rows import records_of
from fedward.client.data.sources import ParquetSource
from fedward.study.errors import DataError
from fedward.study.study import Study

if TYPE_CHECKING:
    import pyarrow as pa

_ALWAYS = 10**6  # rows that any file may have
_RATIO = 200  # bytes of the wanted columns for one byte of the file


def read_parquet(source: ParquetSource, study: Study, context: Context) -> RawRecords:
    """The rows that a study asks for, of a file or of all files of a folder in sorted order.

    Raises:
        DataError: A file, a column or a value is not as the study needs it; the message names it.
    """
    need("pyarrow.parquet", extra="records")
    path = context.folder / source.path
    return records_of(
        lambda wanted: _cells(path, wanted, context), source, study, context, where=str(path)
    )


def _cells(path: Path, wanted: Wanted, context: Context) -> Cells:
    files = sorted(p for p in path.rglob("*.parquet") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise DataError("holds no .parquet file", todo="check the path", where=str(path))
    frames: list[pd.DataFrame] = []
    known: dict[str, Coded] = {}
    columns: list[str] | None = None
    for number, file in enumerate(files):
        try:
            names, frame, known = _one(file, wanted)
            _same_schema(columns, names, wanted, file, files[0])
        except DataError as error:
            if len(files) == 1 or not isinstance(context.faults, ListedFaults):
                raise
            context.faults.add(error, -1 - number)  # no row: the whole file cannot be read
            continue
        columns = columns or names
        frames.append(frame)
    if not frames or columns is None:
        raise DataError("no file of it can be read", todo="mend them", where=str(path))
    whole = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    cells = Cells(str(path), whole, NOTHING, tuple(columns), len(whole))
    if len(files) == 1:
        cells.know(known)
    return cells


def _one(file: Path, wanted: Wanted) -> tuple[list[str], pd.DataFrame, dict[str, Coded]]:
    arrow, parquet = need("pyarrow", extra="records"), need("pyarrow.parquet", extra="records")
    try:
        size = file.stat().st_size
        with parquet.ParquetFile(file) as opened:
            names = [str(name) for name in opened.schema_arrow.names]
            refuse_twins(names, wanted, where=str(file))
            chosen = [name for name in names if name in wanted.names]
            _refuse_swollen(opened.metadata, set(chosen), size, file)
            table = opened.read(columns=chosen)
            found = {name: _column(table.column(name), name, wanted, file) for name in chosen}
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(file)) from None
    except (OSError, ValueError, KeyError, arrow.ArrowException, MemoryError) as error:
        raise DataError(
            f"cannot be read as Parquet ({error})", todo="write it anew", where=str(file)
        ) from None
    columns = {name: column for name, (column, _) in found.items()}
    known = {name: coded for name, (_, coded) in found.items() if coded is not None}
    return names, pd.DataFrame(columns, index=pd.RangeIndex(table.num_rows), copy=False), known


def _refuse_swollen(
    metadata: pa.parquet.FileMetaData, chosen: set[str], size: int, file: Path
) -> None:
    """What a header promises is held against the file's size before anything is allocated."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    promised = sum(
        group.column(place).total_uncompressed_size
        for group in groups
        for place in range(group.num_columns)
        if group.column(place).path_in_schema.split(".")[0] in chosen
    )
    rows = metadata.num_rows
    fits = rows == sum(group.num_rows for group in groups)
    # A row of a real table, with a patient, takes more than a bit.
    if fits and 0 <= rows <= max(_ALWAYS, 8 * size) and promised <= max(2**24, _RATIO * size):
        return
    raise DataError(
        f"promises {rows} rows and {promised} bytes, far more than its {size} bytes can hold",
        todo="write it anew",
        where=str(file),
    )


def _column(
    column: pa.ChunkedArray, name: str, wanted: Wanted, file: Path
) -> tuple[pd.Series[float] | pd.Series[str], Coded | None]:
    """Numbers as float64 where they are wanted as such, everything else as text, and coded."""
    arrow = need("pyarrow", extra="records")
    compute = need("pyarrow.compute", extra="records")
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if arrow.types.is_nested(kind) or arrow.types.is_binary(kind) or arrow.types.is_null(kind):
        if arrow.types.is_null(kind):
            return pd.Series([""] * len(column), dtype=str), None
        raise DataError(
            f"column {name!r} is of type {kind}",
            todo="give numbers, text, dates or yes and no",
            where=str(file),
        )
    number = arrow.types.is_integer(kind) or arrow.types.is_floating(kind)
    if name in wanted.numbers and (number or arrow.types.is_decimal(kind)):
        floats = column if kind == arrow.float64() else column.cast(arrow.float64(), safe=False)
        return pd.Series(floats.to_numpy(), dtype=float, copy=False), None
    if arrow.types.is_float16(kind):
        column = column.cast(arrow.float32())
    # Each different value becomes text once.
    encoded = column.dictionary_encode(null_encoding="encode").combine_chunks()
    values = encoded.dictionary
    if not arrow.types.is_string(kind):
        values = values.cast(arrow.string())
    if values.null_count:
        values = compute.fill_null(values, "")
    if arrow.types.is_floating(kind):
        values = compute.if_else(compute.equal(values, "nan"), "", values)
    plain = arrow.types.is_string(kind) or arrow.types.is_large_string(kind)
    written = column if plain and not column.null_count else values.take(encoded.indices)
    cells = pd.Series(written.to_pandas(), dtype=str)
    codes, different = encoded.indices.to_numpy(), values.to_numpy(zero_copy_only=False)
    if encoded.dictionary.null_count or arrow.types.is_floating(kind):  # "" may be there twice
        places, different = pd.factorize(different)
        codes = places[codes]
    return cells, Coded(codes.astype(np.int64, copy=False), different)


def _same_schema(
    before: list[str] | None, names: list[str], wanted: Wanted, file: Path, first: Path
) -> None:
    """Every file of a folder has the wanted columns that the first one has."""
    if before is None:
        return
    apart = wanted.names & (set(before) ^ set(names))
    if apart:
        column = sorted(apart)[0]
        here, there = ("no", "one") if column in before else ("a", "none")
        raise DataError(
            f"has {here} column {column!r}, where {first.name} has {there}",
            todo="give files of one schema",
            where=str(file),
        )
