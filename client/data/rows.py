"""From the cells of a table to records: the same path for every format that has columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data import features, pieces, sequences, texts
from fedward.client.data.any_source import AnySource
from fedward.client.data.cells import Cells, Read, Wanted
from fedward.client.data.context import Context
from fedward.client.data.faults import Faults, ListedFaults
from fedward.client.data.joining import joined, rows_named
from fedward.client.data.records import Fact, RawRecords, numbered, without_faulty
from fedward.client.data.sources import TabularSource
from fedward.client.data.subgroups import cells_of, columns_of
from fedward.client.data.targets import targets
from fedward.study.data import Data
from fedward.study.errors import DataError
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.token_data import SequenceData, TextData

Inputs = NDArray[np.float32] | NDArray[np.int64]


def records_of(
    read: Read, source: AnySource, study: Study, context: Context, *, where: str
) -> RawRecords:
    """The rows that a study asks for.

    Args:
        read: Reads columns of the table.
        source: Whose columns they are, and which of them names the patient.
        study: Which columns it needs, and what becomes of them.
        context: The hospital's folder, and who is told of rows that cannot be used.
        where: The file, for errors.

    Raises:
        DataError: A file, a column or a value is not as the study needs it; the message names it.
    """
    data, faults = study.data, context.faults
    further = tuple(map(source.column, columns_of(study)))
    cells, facts = _cells(read, source, data, context, where=where, further=further)
    names = _input_columns(data, where=where)
    patient = _patient(source, cells)
    theirs = {ours: source.column(ours) for ours in (*names, *data.label_columns)}
    known = frozenset(cells.frame.columns)
    for column in (*theirs.values(), *patient):
        if column not in known:
            cells.need(column)
    everybody = cells
    cells, more = _whole(cells, theirs, patient, data, faults)
    rows = cells.frame.index.to_numpy(dtype=np.int64)
    labels = {ours: cells.coded(theirs[ours]) for ours in data.label_columns}
    inputs, seen = _inputs(cells, theirs, study, context)
    grouped = cells_of(
        study, lambda name: _texts(everybody, source.column(name)), where=everybody.where
    )
    part = source.column("part")
    owners = cells.coded(patient[0]) if patient else None
    called = rows.astype(str) if owners is None else owners.texts
    found = RawRecords(
        inputs=inputs,
        labels=targets(
            list(labels.values()),
            data,
            study.task,
            where=f"{cells.where}: column {', '.join(map(repr, labels))}",
            rows=rows,
            faults=faults,
        ),
        patients=numbered(called) if owners is None else owners.codes,
        names=called,
        rows=rows,
        parts=cells.frame[part].to_numpy(dtype=str) if part in cells.frame else None,
        dropped=cells.size - len(rows),
        facts=(*facts, *more, *seen),
        cells=None
        if grouped is None
        else grouped[everybody.frame.index.get_indexer(cells.frame.index)],
    )
    return without_faulty(found, faults)


def _cells(
    read: Read,
    source: AnySource,
    data: Data,
    context: Context,
    *,
    where: str,
    further: tuple[str, ...] = (),
) -> tuple[Cells, list[Fact]]:
    """The cells; as text if any number among them is one that has to be told as it is written."""
    inputs = {source.column(name) for name in _input_columns(data, where=where)}
    numbers = features.numbers_of(data) if isinstance(data, TableData) else ()
    texts = {*map(source.column, (*data.label_columns, "part")), *_named(source), *further}
    wanted = Wanted(frozenset(inputs), frozenset(map(source.column, numbers)))
    wanted = Wanted(wanted.texts - wanted.numbers, wanted.numbers).and_texts(frozenset(texts))
    if not isinstance(source, TabularSource):
        return read(wanted), []
    faults = context.faults
    before = len(faults.found) if isinstance(faults, ListedFaults) else 0
    cells, facts = joined(source, read, wanted, context.folder, faults)
    if not isinstance(data, TableData) or features.all_fit(cells, source, data):
        return cells, facts
    if isinstance(faults, ListedFaults):  # everything is told anew
        del faults.found[before:]
    return joined(source, read, wanted.as_text(), context.folder, faults)


def _texts(cells: Cells, column: str) -> list[str]:
    """A column as it is written; nothing where it says that there is no value.

    Raises:
        DataError: There is no such column.
    """
    written = cells.need(column).astype(str)
    lacking = cells.missing(column)
    return ["" if absent else str(text) for text, absent in zip(written, lacking, strict=True)]


def _input_columns(data: Data, *, where: str) -> tuple[str, ...]:
    match data:
        case TableData():
            return tuple(data.features)
        case TextData():
            return (data.text,)
        case SequenceData():
            return (data.sequence,) if isinstance(data.sequence, str) else data.sequence
        case _:
            raise DataError(
                f"is a table, but the study asks for {data.kind}",
                todo="point [data] in hospital.toml to the right files",
                where=where,
            )


def _inputs(
    cells: Cells, theirs: dict[str, str], study: Study, context: Context
) -> tuple[Inputs, list[Fact]]:
    data, faults = study.data, context.faults
    match data:
        case TableData():
            return features.inputs_of(cells, theirs, data, faults)
        case TextData(tokenizer="model"):
            return pieces.pieces_of(cells.frame[theirs[data.text]], study, data, context.models)
        case TextData():
            return texts.tokens_of(cells.frame[theirs[data.text]], data)
        case SequenceData():
            columns = [cells.frame[theirs[name]] for name in _input_columns(data, where="")]
            return sequences.tokens_of(columns, data, faults, where=cells.where)
        case _:
            raise TypeError(data.kind)  # refused by _input_columns


def _named(source: AnySource) -> list[str]:
    """What the patient's column may be called: as the hospital, or as the study calls it."""
    return [] if source.named_by is None else [source.named_by, source.column(source.named_by)]


def _patient(source: AnySource, cells: Cells) -> list[str]:
    column = source.patient_column(cells.frame)
    return [] if column is None else [column]


def _whole(
    cells: Cells, theirs: dict[str, str], patient: list[str], data: Data, faults: Faults
) -> tuple[Cells, list[Fact]]:
    """The rows that lack nothing, after the study's features are filled."""
    rule, facts = "refuse", []
    bad = np.zeros(len(cells.frame), dtype=bool)
    first: dict[int, str] = {}
    filled: dict[str, pd.Series[str]] = {}
    if isinstance(data, TableData):
        rule = data.missing
    for ours in dict.fromkeys([*theirs, *patient]):
        column = theirs.get(ours, ours)
        lacking = cells.missing(column)
        if not lacking.any():
            continue
        rows = cells.frame.index[lacking]
        feature = data.features.get(ours) if isinstance(data, TableData) else None
        if feature is not None and feature.fill is not None:
            filled[column] = features.filled(cells.frame[column], lacking, feature.fill)
            becomes = f"becomes {feature.fill}"
        else:
            bad |= lacking
            first |= {int(row): column for row in rows if int(row) not in first}
            becomes = "the row is left out" if rule == "drop" else "the row cannot be used"
        facts.append(
            Fact(
                "missing",
                f"column {column!r}: {len(rows)} of {len(lacking)} values; {becomes}",
            )
        )
    told = faults.rows if isinstance(faults, ListedFaults) else set()
    for row in cells.frame.index[bad] if rule == "refuse" else ():
        if int(row) in told:
            continue
        column = first[int(row)]
        mend = ', or set missing = "drop" in the study\'s [data]'
        error = DataError(
            f"row {row + 1}, column {column!r}: the value is missing "
            f"({cells.frame[column][row]!r}; {int(bad.sum())} such rows)",
            todo=f"fill it in{mend if isinstance(data, TableData) else ''}",
            where=cells.where,
        )
        faults.add(error, int(row))
    if rule == "drop" and bad.any():
        left = [int(row) for row in cells.frame.index[bad]]
        facts.append(Fact("left out", f"{len(left)} rows lack a value: {rows_named(left)}"))
    if not facts:
        return cells, facts
    frame = pd.DataFrame({**dict(cells.frame), **filled}, index=cells.frame.index)
    return Cells(cells.where, frame[~bad], cells.marks, cells.columns, cells.size), facts
