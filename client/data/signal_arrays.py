"""Signals as plain numbers: a CSV file a recording, or all of them in a NumPy archive.

Neither says in which unit its numbers are: they are taken to be in the study's.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.archive_rows import Entry, EntryRows
from fedward.client.data.archives import filled_from, opened
from fedward.client.data.cache import Layout
from fedward.client.data.cells import Coded
from fedward.client.data.context import Context
from fedward.client.data.decoded import Fault, file_key
from fedward.client.data.labels import Column
from fedward.client.data.records import Fact, RawRecords, as_text, numbered, without_faulty
from fedward.client.data.signal_files import inside, key_of, list_recordings
from fedward.client.data.signal_pieces import (
    Prepared,
    fits,
    new_length,
    piece,
    prepared,
    rhythm,
    starts,
)
from fedward.client.data.signals import (
    Recording,
    Whose,
    find_channels,
    signal_records,
    wants_signals,
)
from fedward.client.data.sources import SignalArchiveSource, SignalTableSource
from fedward.client.data.stored import Stored
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

_AT_ONCE = 2**17  # samples that are prepared together
_KEPT = 3  # of those, for threads that are not at the same place
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
    folder = (context.folder / source.path).absolute()  # pandas takes "~/" at a start for a home
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
        source: Where they are. A key `part` says the part of each, if it is there, and a key
            `mark` when in its recording its annotation is, where the study wants the rhythm.
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
    part, mark = source.column("part"), source.column("mark")
    needed = [*keys, mark] if data.rhythm else keys
    signals, found = _entries(path, needed, optional=[part, "record"], source=source)
    owner = source.patient_column(found)
    if source.patient == "record" and "record" in found:
        raise DataError(
            "patient = \"record\" says that each record is a patient, and there is a key 'record'",
            todo='if that is the patient, set patient = "patient" and columns_are.patient = '
            '"record" in hospital.toml, else take the key out of the archive',
            where=where,
        )
    _refuse_channels(signals, source, where)
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
    count = signals.shape[0]
    beats = np.zeros(count, dtype=np.float32)
    if data.rhythm:
        beats = _rhythms(found[mark], None if owner is None else found[owner], mark, where)
    each = np.repeat(np.arange(count), len(begins))
    names, patients = _names(np.arange(count) if owner is None else found[owner])
    names, patients = names[each], patients[each]
    raw = RawRecords(
        inputs=_inputs(signals, channels, begins, beats, source, data, context, path),
        labels=targets(
            [_coded(_plain(found[key])[each]) for key in keys],
            data,
            study.task,
            where=where,
            rows=range(len(each)),
            faults=context.faults,
        ),
        patients=patients,
        names=names,
        rows=np.arange(len(each)),
        parts=as_text(found[part])[each] if part in found else None,
        dropped=0 if begins else count,
        facts=(Fact("recordings", f"{count}; {source.rate:g} samples a second"),),
    )
    return without_faulty(raw, context.faults)


def _inputs(
    signals: EntryRows,
    channels: list[int],
    begins: list[int],
    beats: NDArray[np.float32],
    source: SignalArchiveSource,
    data: SignalData,
    context: Context,
    path: Path,
) -> NDArray[np.float32] | Stored:
    """All records; record `r` is piece `r % len(begins)` of signal `r // len(begins)`."""
    several = _Together(signals, channels, source.rate, data)
    each = max(len(begins), 1)

    def fill(first: int, rows: NDArray[Any]) -> list[Fault]:
        faults: list[Fault] = []
        for start, end in several.among(first // each, -(-(first + len(rows)) // each)):
            places = range(max(start * each - first, 0), min(end * each - first, len(rows)))
            try:
                _cut(several.prepared(start), start, rows, first, places)
            except DataError:  # whose?
                for place in places:
                    row = first + place
                    try:
                        _cut(several.alone(row // each), row // each, rows, first, [place])
                    except DataError as error:
                        fault = f"record {row + 1}: {error.what}"
                        faults.append((row, DataError(fault, todo=error.todo, where=str(path))))
                        rows[place] = 0
        return faults

    def _cut(
        whole: Prepared, start: int, rows: NDArray[Any], first: int, places: Sequence[int]
    ) -> None:
        """Pieces of signals, of which the first is number `start`, into these places."""
        for number, begin in enumerate(begins):
            # The first place that is of this piece, and the signals from there on.
            at = places[0] + (number - first - places[0]) % each
            if at > places[-1]:
                continue
            of = (first + at) // each - start
            count = len(range(at, places[-1] + 1, each))
            some = Prepared(
                whole.samples[of : of + count],
                None if whole.gaps is None else whole.gaps[of : of + count],
            )
            own = beats[start + of : start + of + count]
            piece(some, begin, data, own, into=rows[at : places[-1] + 1 : each])

    how = data.model_dump_json(exclude={"class_values", "parts", "label"})
    said: list[object] = [source.signals, signals.shape, channels, source.rate, how]
    if data.rhythm:
        said.append(hashlib.blake2b(beats.tobytes(), digest_size=16).hexdigest())
    key = file_key(path, context.folder, *said)
    layout = Layout(signals.shape[0] * len(begins), data.input_shape, np.dtype(np.float32))
    return filled_from([signals], key, fill, layout, context, threads_from=0)


def _rhythms(marks: Entry, owners: Entry | None, mark: str, where: str) -> NDArray[np.float32]:
    """Of each signal; another patient's beats are never among what it follows from."""
    if marks.dtype.kind not in "uif" or not np.isfinite(marks).all():
        raise DataError(
            f"entry {mark!r} has no number for each signal's place in its recording",
            todo='give them, and say in columns_are which key they are: { mark = "sample" }',
            where=where,
        )
    alone = np.zeros(max(len(marks) - 1, 0), dtype=bool)
    same = alone if owners is None else owners[1:] == owners[:-1]
    return rhythm(marks.astype(np.float64), same)


class _Together:
    """Signals that are filtered and resampled some at a time; the last ones are kept."""

    def __init__(
        self, signals: EntryRows, channels: list[int], rate: float, data: SignalData
    ) -> None:
        self._signals, self._channels, self._rate, self._data = signals, channels, rate, data
        size = math.prod(signals.shape[1:])
        self._step = max(_AT_ONCE // max(size, 1), 1)
        self._preparing = threading.Lock()
        self._last: dict[int, Prepared] = {}

    def among(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Which are prepared together: from the first of them on, to before the last."""
        for start in range(first // self._step * self._step, last, self._step):
            yield start, min(start + self._step, self._signals.shape[0])

    def prepared(self, start: int) -> Prepared:
        """Those from here on, shape (signals, channels, time)."""
        with self._preparing:
            found = self._last.get(start)
            if found is None:
                found = self._of(start, min(start + self._step, self._signals.shape[0]))
                self._last[start] = found
                while len(self._last) > _KEPT:
                    self._last.pop(next(iter(self._last)))
            return found

    def alone(self, signal: int) -> Prepared:
        """One of them."""
        return self._of(signal, signal + 1)

    def _of(self, first: int, last: int) -> Prepared:
        signals = self._signals.take(first, last)
        signals = signals[:, None] if signals.ndim == 2 else signals
        if self._channels != list(range(signals.shape[1])):
            signals = signals[:, self._channels]
        own = signals.astype(np.float64) if signals.dtype.kind == "f" else signals
        return prepared(own, self._rate, self._data)


def _names(patients: NDArray[np.generic]) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """As text, and numbered; of numbers, which are slow to write, each once."""
    if patients.dtype.kind not in "iu":
        names = as_text(patients)
        return names, numbered(names)
    codes, different = pd.factorize(patients)
    return as_text(different)[codes], codes.astype(np.int64, copy=False)


def _plain(labels: NDArray[np.generic]) -> NDArray[np.generic]:
    """Text where they are bytes."""
    return as_text(labels) if labels.dtype.kind == "S" else labels


def _coded(labels: NDArray[np.generic]) -> Column:
    """Of whole numbers, which are often said, each once."""
    if labels.dtype.kind not in "iu":
        found: list[object] = labels.tolist()
        return found
    codes, different = pd.factorize(labels)
    return Coded(codes.astype(np.int64, copy=False), different.astype(object))


def _refuse_channels(signals: EntryRows, source: SignalArchiveSource, where: str) -> None:
    """Raise unless the shape is (records, channels, samples), or (records, samples) of one."""
    count, of_each = len(source.channels), signals.shape[1:]
    good = (len(of_each) == 2 and of_each[0] == count) or len(of_each) == count == 1
    if signals.dtype.kind not in "uif" or not good:
        raise DataError(
            f"entry {source.signals!r} has type {signals.dtype} and shape {signals.shape}",
            todo=f"give numbers, (records, {count} channels, samples)",
            where=where,
        )


def _entries(
    path: Path, keys: list[str], *, optional: list[str], source: SignalArchiveSource
) -> tuple[EntryRows, dict[str, Entry]]:
    """The signals, and other entries of one value for each."""
    most = max(_LARGEST, _SWELLS * path.stat().st_size if path.is_file() else 0)
    with opened(path) as archive:
        signals = archive.rows(source.signals, most=most)
        owner = source.patient_column(archive.keys)
        named = [] if owner is None else [owner]
        known = [key for key in optional if key in archive.keys]
        wanted = dict.fromkeys([*keys, *named, *known])
        found = {key: archive.entry(key, most=most) for key in wanted}
    for key, entry in found.items():
        if len(entry) != signals.shape[0] or entry.size != len(entry):
            raise DataError(
                f"{signals.shape[0]} signals, but {key!r} has shape {entry.shape}",
                todo="give one for each signal",
                where=str(path),
            )
        found[key] = entry.reshape(-1)
    return signals, found
