"""What all readers of signals share: from recordings, by name and unread, to records.

A reader says of each recording what its header says, and how its samples are read. Recordings are
read one at a time, whatever the threads that want pieces of them: libraries refuse a file that is
open twice. The last ones of several records are kept, because these follow each other.

A recording, not a record, is one patient where nobody says whose it is: pieces of one recording
never come into two parts.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.any_source import AnySource
from fedward.client.data.context import Context
from fedward.client.data.decoded import Keys, decoded
from fedward.client.data.labels import meaning
from fedward.client.data.records import Fact, RawRecords, numbered, without_faulty
from fedward.client.data.signal_pieces import (
    Prepared,
    fits,
    new_length,
    piece,
    prepared,
    rhythm,
    starts,
)
from fedward.client.data.targets import targets
from fedward.study.any_data import label_text
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study
from fedward.study.task import ClassTask, ReconstructionTask

MOST_SAMPLES = 2**28
"""Of one recording's channels that the study wants, together: 2 GiB in double precision."""

_UNIT = re.compile(r"([nuµμmk]?)(V|A|Pa)")
_PREFIX = {"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3}
_SHOWN = 10
_MOST_KEPT = 2**26  # samples of the last recordings, together; but
_LEAST_KEPT = 2  # at the end of one some threads are in the next


@dataclass(frozen=True)
class Recording:
    """What a header says; the samples are still in the file.

    Attributes:
        name: Of the file, for errors.
        key: What says that the file is still the same: path, size, time.
        rates: Of each channel that the study wants, samples a second, in the study's order.
        lengths: Of each, samples.
        read: The samples of each, float64 in the study's units; NaN where one is missing.
        marks: Seconds of the annotations.
        symbols: Of each annotation.
    """

    name: str
    key: str
    rates: tuple[float, ...]
    lengths: tuple[int, ...]
    read: Callable[[], Sequence[NDArray[np.float64]] | NDArray[np.float64]]
    marks: NDArray[np.float64] | None = None
    symbols: Sequence[str] = ()


class Whose(NamedTuple):
    """A recording that is yet to be opened.

    Attributes:
        name: Of the file.
        patient: What the hospital calls the patient.
        labels: As the table has them; none where annotations say them.
        part: As the table says.
        cells: Of each subgroup, the place of its cell or -1; None in a study without subgroups.
        fault: Why it is not to be opened; None if it may be.
    """

    name: str
    patient: str
    labels: tuple[str, ...] = ()
    part: str | None = None
    cells: tuple[int, ...] | None = None
    fault: DataError | None = None


class _Piece(NamedTuple):
    of: int
    start: int
    labels: tuple[str, ...]
    rhythm: float = 0.0


def wants_signals(study: Study, where: str) -> SignalData:
    """The study's data.

    Raises:
        DataError: The study asks for another kind.
    """
    if not isinstance(study.data, SignalData):
        raise DataError(
            f"holds signals, but the study asks for {study.data.kind}",
            todo="point [data] in hospital.toml to the right files",
            where=where,
        )
    if isinstance(study.data.cut, Around) and not isinstance(
        study.task, ClassTask | ReconstructionTask
    ):
        raise DataError(
            f"an annotation says a class, which a {study.task.kind} task has not",
            todo="cut recordings in another way in the study's [data] cut",
            where=where,
        )
    return study.data


def find_channels(theirs: Sequence[str], source: AnySource, data: SignalData) -> list[int]:
    """Places of the study's channels among a recording's.

    Raises:
        DataError: One is not there, or is there twice.
    """
    names = [name.strip() for name in theirs]
    places = []
    for channel in data.channels:
        wanted = source.column(channel)
        if names.count(wanted) != 1:
            many = "no" if wanted not in names else "more than one"
            raise DataError(
                f"has {many} channel {wanted!r}",
                todo=f"say in [data] columns_are which it is; found: {', '.join(names[:40])}",
            )
        places.append(names.index(wanted))
    return places


def unit_factor(theirs: str, place: int, data: SignalData) -> float:
    """What a channel's samples are multiplied by to have the study's unit.

    Args:
        theirs: Unit in the file.
        place: Of the channel in the study.
        data: The study's.

    Raises:
        DataError: One unit is not the other with another prefix.
    """
    ours = theirs if data.units is None else data.units[place]
    if theirs == ours:
        return 1.0
    found, wanted = _UNIT.fullmatch(theirs), _UNIT.fullmatch(ours)
    if found is None or wanted is None or found[2] != wanted[2]:
        raise DataError(
            f"channel {data.channels[place]!r} is in {theirs!r}, the study wants {ours!r}",
            todo="give that unit",
        )
    return _PREFIX[found[1]] / _PREFIX[wanted[1]]


def signal_records(
    listed: Sequence[Whose],
    opened: Callable[[Whose], Recording],
    source: AnySource,
    study: Study,
    context: Context,
    where: str,
) -> RawRecords:
    """The records that a study asks for, of recordings that are opened one after another.

    Args:
        listed: The recordings.
        opened: What a recording's header says; raises `DataError` where it cannot be used.
        source: Where they are.
        study: Which it needs.
        context: Who is told of records that cannot be used.
        where: The folder, for errors.

    Raises:
        DataError: A file or a label is not as the study needs it; the message names it.
    """
    data = wants_signals(study, where)
    plan = _Plan(study, data)
    for number, one in enumerate(listed):
        plan.add(number, one, opened, where)
    if not plan.pieces:
        raise DataError("holds no recordings", todo="check the path", where=where)
    good = [row for row, entry in enumerate(plan.pieces) if not isinstance(entry, DataError)]
    labels = _labels(plan.pieces, good, data, study, context, where)
    # Recordings are read one at a time: more threads would wait for each other.
    inputs = decoded(
        plan.keys(), plan.decode, data.input_shape, np.float32, context, threads_from=math.inf
    )
    names = np.array([listed[of].patient for of in plan.of], dtype=str)
    parts = [listed[of].part for of in plan.of]
    cells = [entry for of in plan.of if (entry := listed[of].cells) is not None]
    found = RawRecords(
        inputs=inputs,
        labels=labels,
        patients=numbered(names),
        names=names,
        rows=np.arange(len(plan.pieces)),
        parts=np.array(parts, dtype=str) if all(parts) else None,
        dropped=plan.dropped,
        facts=plan.facts(source),
        cells=np.array(cells, dtype=np.int64) if cells else None,
    )
    return without_faulty(found, context.faults)


class _Plan:
    """Which record is cut from where; a record that cannot be has the error in its place."""

    def __init__(self, study: Study, data: SignalData) -> None:
        self.data = data
        self.pieces: list[_Piece | DataError] = []
        self.of: list[int] = []
        self.dropped = 0
        self._classes = meaning(data, study.task) if isinstance(study.task, ClassTask) else None
        self._recordings: dict[int, Recording] = {}
        self._failed = 0
        self._unused: dict[str, int] = {}
        self._reading = threading.Lock()
        self._last: dict[int, Prepared] = {}
        self._pieces_of: Counter[int] = Counter()

    def add(
        self, number: int, one: Whose, opened: Callable[[Whose], Recording], where: str
    ) -> None:
        """Plan the records of one recording."""
        try:
            if one.fault is not None:
                raise one.fault
            recording = opened(one)
            wanted = sum(recording.lengths)
            if wanted > MOST_SAMPLES:
                raise DataError(
                    f"{wanted} samples in the wanted channels; at most {MOST_SAMPLES} are read",
                    todo="cut it into several recordings",
                )
            length = min(
                new_length(samples, rate, self.data)
                for samples, rate in dict.fromkeys(  # channels are alike, and fractions are slow
                    zip(recording.lengths, recording.rates, strict=True)
                )
            )
            if length * len(self.data.channels) > MOST_SAMPLES:
                raise DataError("is too long at the study's rate", todo="cut it")
            found = self._starts(one, recording, length)
        except DataError as error:
            self._failed += 1
            self._put(number, _at(error, one.name, where))
            return
        self._recordings[number] = recording
        for start, labels, beat in found:
            if self.data.shorter == "pad" or fits(start, length, self.data):
                self._put(number, _Piece(number, start, labels, beat))
            elif self.data.shorter == "drop":
                self.dropped += 1
            else:
                short = DataError(
                    f"the record from sample {start} needs {self.data.length} samples, the "
                    f"recording has {length} (at {self.data.rate:g} a second)",
                    todo='set shorter = "drop" or "pad" in the study\'s [data]',
                )
                self._put(number, _at(short, one.name, where))

    def _starts(
        self, one: Whose, recording: Recording, length: int
    ) -> list[tuple[int, tuple[str, ...], float]]:
        if not isinstance(self.data.cut, Around):
            if self.data.rhythm:
                raise DataError(
                    "a whole recording has no rhythm of annotations",
                    todo='set cut = { by = "annotation" } in the study\'s [data]',
                )
            return [(start, one.labels, 0.0) for start in starts(length, self.data)]
        if recording.marks is None:
            raise DataError(
                "has no annotations, around which the study cuts",
                todo="name them in [data] annotations of hospital.toml",
            )
        found: list[tuple[int, tuple[str, ...]]] = []
        marks: list[float] = []
        for seconds, symbol in zip(recording.marks, recording.symbols, strict=True):
            if self._classes is not None and label_text(symbol) not in self._classes:
                self._unused[symbol] = self._unused.get(symbol, 0) + 1
                continue
            place = round(float(seconds) * self.data.rate)
            if not 0 <= place < max(length, 1):
                raise DataError("an annotation lies outside the recording", todo="mend the file")
            found.append((place - self.data.cut.before, (symbol,)))
            marks.append(float(seconds))
        beats = rhythm(np.array(marks), np.ones(max(len(marks) - 1, 0), dtype=bool))
        return [(*entry, float(beat)) for entry, beat in zip(found, beats, strict=True)]

    def _put(self, number: int, entry: _Piece | DataError) -> None:
        self.pieces.append(entry)
        self.of.append(number)
        self._pieces_of[number] += 1

    def keys(self) -> Keys:
        """What each record's content follows from."""
        how = self.data.model_dump_json(exclude={"class_values", "parts", "label"})

        def key(row: int) -> str:
            entry = self.pieces[row]
            if isinstance(entry, DataError):
                return f"{row} {entry.line()}"
            return f"{self._recordings[entry.of].key} {entry.start} {entry.rhythm} {how}"

        return Keys(len(self.pieces), key)

    def decode(self, row: int) -> NDArray[np.float32]:
        """One record, shape `data.input_shape`."""
        entry = self.pieces[row]
        if isinstance(entry, DataError):
            raise entry
        name = self._recordings[entry.of].name
        try:
            return piece(self._prepared(entry.of), entry.start, self.data, entry.rhythm)
        except DataError as error:
            raise _at(error, name, f"record {row + 1}") from None

    def _prepared(self, number: int) -> Prepared:
        with self._reading:
            found = self._last.pop(number, None)
            if found is None:
                found = _together(self._recordings[number], self.data)
            if self._pieces_of[number] == 1:
                return found
            self._last[number] = found  # the newest is at the end
            while len(self._last) > _LEAST_KEPT and self._size() > _MOST_KEPT:
                self._last.pop(next(iter(self._last)))
            return found

    def _size(self) -> int:
        return sum(one.samples.size for one in self._last.values())

    def facts(self, source: AnySource) -> tuple[Fact, ...]:
        """For the hospital's staff."""
        recordings = list(self._recordings.values())
        rates = sorted({rate for one in recordings for rate in one.rates})
        shown = ", ".join(f"{rate:g}" for rate in rates[:_SHOWN])
        found = [
            Fact(
                "recordings",
                f"{len(recordings) + self._failed}, of which {self._failed} cannot be opened; "
                f"{shown or 'no'} samples a second",
            )
        ]
        if self._unused:
            most = sum(self._unused.values())
            text = f"{most} mean no class of the study and make no record"
            found.append(Fact("annotations", text))
        return tuple(found)


def _together(recording: Recording, data: SignalData) -> Prepared:
    """All channels at one rate, as long as the shortest."""
    tracks = recording.read()
    if [len(track) for track in tracks] != list(recording.lengths):
        raise DataError("samples are not as many as the header says", todo="replace the file")
    if len(set(recording.rates)) == 1 and len(set(recording.lengths)) == 1:
        together = tracks if isinstance(tracks, np.ndarray) else np.stack(tracks)
        return prepared(together, recording.rates[0], data)
    each = [
        prepared(track[None].astype(np.float64), rate, data)
        for track, rate in zip(tracks, recording.rates, strict=True)
    ]
    length = min(one.samples.shape[-1] for one in each)
    samples = np.concatenate([one.samples[:, :length] for one in each])
    if all(one.gaps is None for one in each):
        return Prepared(samples, None)
    none = np.zeros((1, length), dtype=bool)
    return Prepared(
        samples,
        np.concatenate([none if one.gaps is None else one.gaps[:, :length] for one in each]),
    )


def _labels(
    pieces: Sequence[_Piece | DataError],
    good: Sequence[int],
    data: SignalData,
    study: Study,
    context: Context,
    where: str,
) -> NDArray[np.int64] | NDArray[np.float32]:
    """Labels of all records; those that cannot be used have zeros."""
    each = [entry.labels for entry in pieces if isinstance(entry, _Piece)]
    found = targets(
        list(zip(*each, strict=True)) if each else [()] * study.task.label_columns,
        data,
        study.task,
        where=where,
        rows=good,
        faults=context.faults,
    )
    labels = np.zeros((len(pieces), *found.shape[1:]), dtype=found.dtype)
    labels[list(good)] = found
    return labels


def _at(error: DataError, name: str, where: str) -> DataError:
    """The same error, naming the recording."""
    if error.where:
        return error
    return DataError(error.what, todo=error.todo, where=f"{where}: {name}")
