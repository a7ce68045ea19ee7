"""Which recordings a folder holds, whose they are, and what a table says of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from fedward.client.data.signals import Whose
from fedward.client.data.sources import EdfSource, SignalTableSource, WfdbSource
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

FileSource = WfdbSource | EdfSource | SignalTableSource
_PLAIN = re.compile(r"[\w+-][\w+.-]*")
_LARGEST_TABLE = 2**28  # bytes


def list_recordings(
    folder: Path, source: FileSource, study: Study, found: Callable[[], Sequence[str]]
) -> list[Whose]:
    """The recordings of a folder, in the order of the table of labels, or of their names.

    Args:
        folder: Where they are.
        source: What the hospital says of them.
        study: Which labels it needs.
        found: The names of the recordings that lie there, where no table names them.

    Raises:
        DataError: A table is missing or lacks something, or names a file elsewhere.
    """
    if not folder.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(folder))
    columns = _label_columns(study, source)
    if source.labels is None and columns:
        raise DataError(
            "nobody says the labels",
            todo="name a table in [data] labels of hospital.toml",
            where=str(folder),
        )
    patients = _patients(folder, source)
    if source.labels is None:
        if source.named_by is not None and patients is None:
            raise DataError(
                f"no table says the patients ({source.named_by!r})",
                todo="name one in [data] labels or patients, or say that a record is a patient",
                where=str(folder),
            )
        return [_whose(name, {}, source, (), patients, folder) for name in found()]
    table = folder / source.labels
    wanted = ["file", *columns]
    if patients is None and source.named_by is not None:
        wanted.append(source.column(source.named_by))
    rows = _rows(table, wanted)
    names = [row["file"] for row in rows]
    if twice := len(names) - len(set(names)):
        raise DataError(f"names {twice} files twice", todo="once each", where=str(table))
    return [
        _whose(_inside(row["file"], number, table), row, source, columns, patients, folder)
        for number, row in enumerate(rows)
    ]


def inside(folder: Path, name: str) -> Path:
    """A file that a hospital's table or a header names.

    Raises:
        DataError: It is not in the folder, seen through links too, or it is no plain file.
    """
    path = folder / name
    try:
        real = path.resolve()
        plain = real.is_file() and real.is_relative_to(folder.resolve())
    except (OSError, ValueError):
        plain = False
    if not plain:
        raise DataError(f"no such file: {name!r}", todo="check the table or the header")
    return path


def key_of(path: Path, name: str) -> str:
    """What says that a file is still the same."""
    state = path.stat()
    return f"{name} {state.st_size} {state.st_mtime_ns}"


def _label_columns(study: Study, source: FileSource) -> tuple[str, ...]:
    """What the hospital calls the label's columns; none where annotations say the label."""
    data = study.data
    if not isinstance(data, SignalData) or isinstance(data.cut, Around):
        return ()
    return tuple(map(source.column, data.label_columns[: study.task.label_columns]))


def _patients(folder: Path, source: FileSource) -> dict[str, str] | None:
    """The patient of each record, where a table of its own says it."""
    if not isinstance(source, WfdbSource) or source.patients is None:
        return None
    table = folder / source.patients
    if source.named_by is None:
        raise DataError(
            "says the patients, but hospital.toml does not say in which column",
            todo="set [data] patient",
            where=str(table),
        )
    column = source.column(source.named_by)
    return {row["record"]: row[column] for row in _rows(table, ["record", column])}


def _whose(
    name: str,
    row: dict[str, str],
    source: FileSource,
    columns: Sequence[str],
    patients: dict[str, str] | None,
    folder: Path,
) -> Whose:
    if source.named_by is None:
        patient = name
    elif patients is None:
        patient = row[source.column(source.named_by)]
    else:
        patient = patients.get(name, "")
    if not patient:
        raise DataError(f"recording {name!r} has no patient", todo="name one", where=str(folder))
    return Whose(name, patient, tuple(row[column] for column in columns), row.get("part") or None)


def _inside(name: str, number: int, table: Path) -> str:
    steps = name.split("/")
    if not all(_PLAIN.fullmatch(step) for step in steps):
        raise DataError(
            f"row {number + 1} names no file in that folder",
            todo="give names of letters, digits, dots, hyphens and plus signs, / between folders",
            where=str(table),
        )
    return name


def _rows(table: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a table, with at least these columns."""
    try:
        if table.stat().st_size > _LARGEST_TABLE:
            raise DataError("is too large for a table", todo="check the path", where=str(table))
        with table.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            rows = list(reader)
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(table)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as a table ({error})", todo="give a CSV file", where=str(table)
        ) from None
    columns = reader.fieldnames or ()
    if absent := [column for column in wanted if column not in columns]:
        raise DataError(
            f"has no column {absent[0]!r}",
            todo=f"columns found: {', '.join(columns)}",
            where=str(table),
        )
    for number, row in enumerate(rows):
        if None in row or None in row.values():
            raise DataError(
                f"row {number + 1} has another number of columns than the first line",
                todo="mend the table",
                where=str(table),
            )
    return rows
