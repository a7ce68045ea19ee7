"""Signals as plain numbers: a CSV file a recording, or all of them in a NumPy archive.

Neither says in which unit its numbers are: they are taken to be in the study's.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.archives import opened
from fedward.client.data.context import Context
from fedward.client.data.records import Fact, RawRecords, as_text, numbered, without_faulty
from fedward.client.data.signal_files import inside, key_of, list_recordings
from fedward.client.data.signal_pieces import fits, new_length, piece, prepared, starts
from fedward.client.data.signals import (
    Recording,
    Whose,
    find_channels,
    signal_records,
    wants_signals,
)
from fedward.client.data.sources import AnySource, SignalArchiveSource, SignalTableSource
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

_AT_ONCE = 2**17  # samples that are prepared together
_LARGEST = 2**28  # bytes of an entry that any archive may hold; beyond,
_SWELLS = 64  # times the archive's own size
_READ = 2**24  # bytes at a time


def read_signal_tables(source: SignalTableSource, study: Study, context: Context) -> RawRecords:
    """The pieces of recordings that a study asks for, from a folder of CSV files.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of records that cannot be used.

    Raises:
        DataError: A file, a record or a label is not as the study needs it; the message names it.
    """
    folder = context.folder / source.path
    data = wants_signals(study, str(folder))
    listed = list_recordings(
        folder,
        source,
        study,
        lambda: [file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*.csv"))],
    )
    return signal_records(
        listed,
        lambda one: _opened(folder, one, source, data),
        source,
        study,
        context,
        str(folder),
    )


def _opened(folder: Path, one: Whose, source: SignalTableSource, data: SignalData) -> Recording:
    path = inside(folder, one.name)
    names = list(_cells(path, rows=0).columns)
    channels = find_channels(names, source, data)
    count = len(channels)
    return Recording(
        name=one.name,
        key=key_of(path, f"{one.name} {source.rate}"),
        rates=(source.rate,) * count,
        lengths=(_lines(path, len(names)),) * count,
        read=partial(_columns, path, channels),
    )


def _lines(path: Path, columns: int) -> int:
    """Lines after the first, also the last if it does not end.

    Raises:
        DataError: They have not so many columns.
    """
    count, commas, last = 0, 0, b"\n"
    with path.open("rb") as file:
        file.readline()
        while block := file.read(_READ):
            count += block.count(b"\n")
            commas += block.count(b",")
            last = block[-1:]
    count += last != b"\n"
    if commas != count * (columns - 1):
        raise DataError(
            f"has lines of another number of columns than the first, {columns}",
            todo="mend the file",
        )
    return count


def _columns(path: Path, channels: list[int]) -> list[NDArray[np.float64]]:
    cells = _cells(path, columns=channels)
    return [cells[place].to_numpy(dtype=np.float64) for place in channels]


def _cells(
    path: Path, *, rows: int | None = None, columns: list[int] | None = None
) -> pd.DataFrame:
    """The header of a file, or columns of numbers by their places."""
    try:
        if columns is None:
            return pd.read_csv(path, nrows=rows, dtype=str, skipinitialspace=True)
        return pd.read_csv(
            path,
            header=None,
            skiprows=1,
            usecols=columns,
            dtype=np.float64,
            skip_blank_lines=False,
            skipinitialspace=True,
        )
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(
            f"cannot be read as a table of numbers ({type(error).__name__})",
            todo="give a CSV file with a line of channels and a line a sample",
        ) from None


# --- Archives -------------------------------------------------------------------------------------


def read_signal_archive(source: SignalArchiveSource, study: Study, context: Context) -> RawRecords:
    """The signals that a study asks for, from a NumPy archive.

    Args:
        source: Where they are. A key `part` says the part of each, if it is there.
        study: Which it needs.
        context: The hospital's folder, and who is told of signals that cannot be used.

    Raises:
        DataError: The file, a signal or a label is not as the study needs it; the message says it.
    """
    path = context.folder / source.path
    where = str(path)
    data = wants_signals(study, where)
    if isinstance(data.cut, Around):
        raise DataError(
            "an archive has no annotations, around which the study cuts",
            todo="point [data] in hospital.toml to WFDB or EDF files",
            where=where,
        )
    columns = data.label_columns[: study.task.label_columns]
    keys = [source.labels] if len(columns) == 1 else [source.column(key) for key in columns]
    part = source.column("part")
    found = _entries(path, [source.signals], [*keys], optional=[part, "record"], source=source)
    owner = source.patient_column(found)
    if source.patient == "record" and "record" in found:
        raise DataError(
            "patient = \"record\" says that each record is a patient, and there is a key 'record'",
            todo='if that is the patient, set patient = "patient" and columns_are.patient = '
            '"record" in hospital.toml, else take the key out of the archive',
            where=where,
        )
    signals = _with_channels(found[source.signals], source, where)
    try:
        channels = find_channels(source.channels, source, data)
        length = new_length(signals.shape[-1], source.rate, data)
    except DataError as error:
        raise DataError(error.what, todo=error.todo, where=where) from None
    begins = [s for s in starts(length, data) if data.shorter == "pad" or fits(s, length, data)]
    if not begins and data.shorter == "refuse":
        raise DataError(
            f"signals of {length} samples (at {data.rate:g} a second), the study needs "
            f"{data.length}",
            todo='set shorter = "drop" or "pad" in the study\'s [data]',
            where=where,
        )
    each = np.repeat(np.arange(len(signals)), len(begins))
    names = _names(np.arange(len(signals)) if owner is None else found[owner])[each]
    raw = RawRecords(
        inputs=_inputs(signals, channels, begins, source.rate, data, context, where),
        labels=targets(
            [_plain(found[key])[each].tolist() for key in keys],
            data,
            study.task,
            where=where,
            rows=range(len(each)),
            faults=context.faults,
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(len(each)),
        parts=as_text(found[part])[each] if part in found else None,
        dropped=0 if begins else len(signals),
        facts=(Fact("recordings", f"{len(signals)}; {source.rate:g} samples a second"),),
    )
    return without_faulty(raw, context.faults)


def _inputs(
    signals: NDArray[np.generic],
    channels: list[int],
    begins: list[int],
    rate: float,
    data: SignalData,
    context: Context,
    where: str,
) -> NDArray[np.float32]:
    """All records, those of one signal together."""
    found = np.zeros((len(signals), len(begins), *data.input_shape), dtype=np.float32)
    if channels != list(range(signals.shape[1])):
        signals = signals[:, channels]
    step = max(_AT_ONCE // max(len(channels) * signals.shape[-1], 1), 1)

    def fill(rows: slice, number: int | None = None) -> None:
        whole = prepared(signals[rows].astype(np.float64), rate, data)
        for place, start in enumerate(begins):
            if number in (None, place):
                found[rows, place] = piece(whole, start, data)

    for first in range(0, len(signals), step):
        try:
            fill(slice(first, first + step))
        except DataError:  # whose?
            for row in range(first, min(first + step, len(signals))):
                for place in range(len(begins)):
                    try:
                        fill(slice(row, row + 1), place)
                    except DataError as error:
                        record = row * len(begins) + place
                        fault = f"record {record + 1}: {error.what}"
                        context.faults.add(DataError(fault, todo=error.todo, where=where), record)
        context.progress(min(first + step, len(signals)), len(signals))
    return found.reshape(-1, *data.input_shape)


def _names(patients: NDArray[np.generic]) -> NDArray[np.str_]:
    """As text; of numbers, which are slow to write, each once."""
    if patients.dtype.kind not in "iu":
        return as_text(patients)
    codes, different = pd.factorize(patients)
    return as_text(different)[codes]


def _plain(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Text where they are bytes."""
    return as_text(labels) if labels.dtype.kind == "S" else labels


def _with_channels(
    signals: NDArray[np.generic], source: SignalArchiveSource, where: str
) -> NDArray[np.generic]:
    """Shape (records, channels, samples)."""
    count = len(source.channels)
    if signals.ndim == 2 and count == 1:
        signals = signals[:, None]
    if signals.dtype.kind not in "uif" or signals.ndim != 3 or signals.shape[1] != count:
        raise DataError(
            f"entry {source.signals!r} has type {signals.dtype} and shape {signals.shape}",
            todo=f"give numbers, (records, {count} channels, samples)",
            where=where,
        )
    return signals


def _entries(
    path: Path, main: list[str], more: list[str], *, optional: list[str], source: AnySource
) -> dict[str, NDArray[np.generic]]:
    """Entries of an archive, as many rows each as the first has."""
    most = max(_LARGEST, _SWELLS * path.stat().st_size if path.is_file() else 0)
    with opened(path) as archive:
        owner = source.patient_column(archive.keys)
        named = [] if owner is None else [owner]
        known = [key for key in optional if key in archive.keys]
        wanted = list(dict.fromkeys([*main, *more, *named, *known]))
        found = {key: archive.entry(key, most=most) for key in wanted}
    count = len(found[main[0]])
    for key in wanted[1:]:
        found[key] = found[key].reshape(len(found[key]), -1)
        if found[key].shape != (count, 1):
            raise DataError(
                f"{count} signals, but {key!r} has shape {found[key].shape}",
                todo="give one for each signal",
                where=str(path),
            )
        found[key] = found[key][:, 0]
    return found
