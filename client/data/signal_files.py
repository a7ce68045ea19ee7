"""Which recordings a folder holds, whose they are, and what a table says of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from fedward.client.data.labelled import read_labels
from fedward.client.data.named_files import path_in
from fedward.client.data.signals import Whose
from fedward.client.data.sources import EdfSource, SignalTableSource, WfdbSource
from fedward.client.data.subgroups import cells_in_table
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

FileSource = WfdbSource | EdfSource | SignalTableSource


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
        DataError: A table is missing or lacks something.
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
        listed = found()
        owners = listed if patients is None else [patients.get(name, "") for name in listed]
        return [
            _whose(name, owner, (), "", folder) for name, owner in zip(listed, owners, strict=True)
        ]
    table = folder / source.labels
    said = read_labels(table)
    names = said.column(source.column("file"))
    if twice := len(names) - len(set(names)):
        raise DataError(f"names {twice} files twice", todo="once each", where=str(table))
    owner = source.patient_column(said.columns)
    if patients is None:
        owners = names if owner is None else said.column(owner)
    else:
        owners = [patients.get(name, "") for name in names]
    labels = [said.column(column) for column in columns]
    part = source.column("part")
    parts = said.column(part) if part in said.columns else [""] * len(names)
    cells = cells_in_table(study, source, said, where=str(folder))
    found_here = []
    for row, name in enumerate(names):
        one = _whose(name, owners[row], [column[row] for column in labels], parts[row], folder)
        of = None if cells is None else tuple(cells[row].tolist())
        found_here.append(one._replace(cells=of, fault=_fault(folder, name, table, row)))
    return found_here


def inside(folder: Path, name: str) -> Path:
    """A file that a hospital's table or a header names.

    Raises:
        DataError: It is not in the folder, seen through links too, or it is no plain file.
    """
    path = folder / name
    try:
        real = os.path.realpath(path)
        within = os.path.join(os.path.realpath(folder), "")
        plain = os.path.isfile(real) and real.startswith(within)
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
    said = read_labels(table)
    column = source.patient_column(said.columns) or ""
    return dict(zip(said.column(source.column("record")), said.column(column), strict=True))


def _whose(name: str, patient: str, labels: Sequence[str], part: str, folder: Path) -> Whose:
    if not patient:
        raise DataError(f"recording {name!r} has no patient", todo="name one", where=str(folder))
    return Whose(name, patient, tuple(labels), part or None)


def _fault(folder: Path, name: str, table: Path, row: int) -> DataError | None:
    try:
        path_in(folder, name, table, row)
    except DataError as error:
        return error
    return None
