"""What is known of each patient over time, from whatever record system, and what a study takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.cells import NOTHING, Cells
from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords, numbered, without_faulty
from fedward.client.data.rows import records_of
from fedward.client.data.sources import FhirSource, OmopSource
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.origins import AtDate, AtEvent, Fhir, Omop
from fedward.study.series_data import SeriesData
from fedward.study.study import Study
from fedward.study.table_data import TableData

DAY = 86400.0
YEAR = 365.2425 * DAY
_LARGEST = 1e18  # its square is still a float32
_PATIENT = ("age", "gender", "deceased")

Value = float | str | None


class Span(NamedTuple):
    """A moment as exactly as it is known, in seconds since 1970 (UTC).

    Attributes:
        first: The earliest that it can be.
        last: The latest.
    """

    first: float
    last: float

    @property
    def middle(self) -> float:
        """Between both."""
        return (self.first + self.last) / 2


class Event(NamedTuple):
    """Something in a patient's chart that a study looks for.

    Attributes:
        first: The earliest that it can have begun.
        last: The latest that it can have begun.
        known: From when on it was surely known; not before `last`.
        value: A number, a text, or nothing where only that it happened counts.
    """

    first: float
    last: float
    known: float
    value: Value = None


@dataclass
class Chart:
    """A patient.

    Attributes:
        name: What the hospital calls them; it never leaves the reader but as `RawRecords.names`.
        birth: None where it is not known.
        gender: Empty where it is not known.
        death: None where it is not known to have happened, or not when.
        deceased: Whether they died; None where that cannot be said.
        events: Of each column that is looked for.
    """

    name: str
    birth: Span | None = None
    gender: str = ""
    death: Span | None = None
    deceased: bool | None = False
    events: dict[str, list[Event]] = field(default_factory=dict)


INDEX = " index"
ENCOUNTER = " encounter"
"""Names of what no column is: the index, and encounters where the index may be one."""

Asked = dict[str, Fhir | Omop]


def asked_of(study: Study, system: str, *, where: str) -> Asked:
    """What a study looks for in a record system, by column.

    Args:
        study: The study.
        system: `fhir` or `omop`.
        where: The hospital's files, for the error.

    Raises:
        DataError: The study does not say where its values come from in such records.
    """
    data = study.data
    if not isinstance(data, TableData | SeriesData):
        raise DataError(
            f"are records of patients, but the study asks for {data.kind}",
            todo="point [data] in hospital.toml to the right files",
            where=where,
        )
    origins = {**data.features, **(data.label_from or {})}
    found: Asked = {}
    for name in [*data.features, *data.label_columns]:
        query = getattr(origins.get(name), system, None)
        if query is None:
            raise DataError(
                f"the study does not say where {name!r} comes from in {system.upper()} records",
                todo="ask for such a study, or give this hospital's data as a table",
                where=where,
            )
        found[name] = query
    if isinstance(data.index, AtEvent):
        found[INDEX] = getattr(data.index, system)
    return found


def charted_records(
    charts: Sequence[Chart],
    asked: Asked,
    source: FhirSource | OmopSource,
    study: Study,
    faults: Faults,
    *,
    where: str,
    lost: int = 0,
) -> RawRecords:
    """A record for each patient who has an index; the others count as dropped.

    Args:
        charts: The patients.
        asked: What is looked for.
        source: Where they are from.
        study: Which values it needs.
        faults: Told of patients who cannot be used.
        where: The files or database, for errors.
        lost: Faults that are no patient's own; they count as dropped.
    """
    data = study.data
    if not isinstance(data, TableData | SeriesData):
        raise TypeError(data.kind)
    indices = [_index_of(chart, data) for chart in charts]
    rows = [row for row, index in enumerate(indices) if index is not None]
    taken = [_Taker(charts[row], indices[row] or 0.0, data, asked) for row in rows]
    labels = {name: [t.label(name) for t in taken] for name in data.label_columns}
    names = [charts[row].name for row in rows]
    if isinstance(data, TableData):
        columns = {
            name: [_or_absent(t.feature(name), spec.absent) for t in taken]
            for name, spec in data.features.items()
        }
        cells = pd.DataFrame({**columns, **labels}, index=rows, dtype=str)
        if source.patient is not None:
            cells[source.patient] = names
        table = Cells(where, cells, NOTHING, tuple(map(str, cells.columns)), len(cells))
        own = source.model_copy(update={"columns_are": {}})
        context = Context(Path(), faults)
        found = records_of(lambda _: table, own, study, context, where=where)
    else:
        found = _series(taken, labels, names, rows, study, data, faults, where=where)
    without = len(charts) - len(rows)
    return replace(found, dropped=found.dropped + without + lost)


def _or_absent(value: str, absent: float | None) -> str:
    return value if value or absent is None else repr(absent)


def _series(
    taken: Sequence[_Taker],
    labels: dict[str, list[str]],
    names: list[str],
    rows: list[int],
    study: Study,
    data: SeriesData,
    faults: Faults,
    *,
    where: str,
) -> RawRecords:
    lacking = [place for place in range(len(rows)) if not all(v[place] for v in labels.values())]
    if data.missing == "refuse":
        for place in lacking:
            error = DataError(
                f"patient {rows[place] + 1} has no label",
                todo='set missing = "drop" in the study\'s [data]',
                where=where,
            )
            faults.add(error, rows[place])
    keep = [place for place in range(len(rows)) if place not in set(lacking)]
    inputs = np.zeros((len(keep), *data.input_shape), dtype=np.float32)
    for number, place in enumerate(keep):
        for channel, (name, spec) in enumerate(data.features.items()):
            for slot, value in taken[place].bins(name, data):
                scaled = (value - spec.center) / spec.scale
                if abs(scaled) <= _LARGEST:
                    inputs[number, 2 * channel : 2 * channel + 2, slot] = scaled, 1
                    continue
                error = DataError(
                    f"patient {rows[place] + 1}, feature {name!r}: "
                    "a value is not a finite number of ordinary size",
                    todo="mend the value",
                    where=where,
                )
                faults.add(error, rows[place])
    kept = [rows[place] for place in keep]
    people = np.array([names[place] for place in keep], dtype=str)
    raw = RawRecords(
        inputs=inputs,
        labels=targets(
            [[labels[name][place] for place in keep] for name in data.label_columns],
            data,
            study.task,
            where=f"{where}: label",
            rows=kept,
            faults=faults,
        ),
        patients=numbered(people) if len(people) else np.zeros(0, np.int64),
        names=people,
        rows=np.array(kept, dtype=np.int64),
        dropped=len(lacking),
    )
    return without_faulty(raw, faults)


# --- One patient ----------------------------------------------------------------------------------


def _index_of(chart: Chart, data: TableData | SeriesData) -> float | None:
    """The patient's moment; None where there is none between birth and death."""
    index = data.index
    if isinstance(index, AtDate):
        day = datetime.strptime(index.at, "%Y-%m-%d").replace(tzinfo=UTC)
        found: float | None = day.timestamp()
    elif isinstance(index, AtEvent):
        found = _edge(chart.events.get(INDEX, []), index.which)
        if found is None and index.otherwise == "last_encounter":
            found = _edge(chart.events.get(ENCOUNTER, []), "last")
    else:
        found = None
    unborn = found is not None and chart.birth is not None and found < chart.birth.first
    # Whose death has only a day may die on the day of the index itself.
    dead = found is not None and chart.death is not None and found > chart.death.last
    return None if unborn or dead else found


def _edge(events: Sequence[Event], which: str) -> float | None:
    starts = [event.first for event in events]
    if not starts:
        return None
    return min(starts) if which == "first" else max(starts)


@dataclass
class _Taker:
    """What a study takes of one patient, as a table's cells: text, empty where there is nothing."""

    chart: Chart
    index: float
    data: TableData | SeriesData
    asked: Asked

    def feature(self, name: str) -> str:
        """From what was over and known before the index."""
        window = self.data.index
        if window is None:
            return ""
        last = self.index - window.gap * DAY
        first = -np.inf if window.before is None else self.index - window.before * DAY
        return self._take(name, lambda e: e.first >= first and e.known <= last)

    def label(self, name: str) -> str:
        """From what may have happened at the index or after it."""
        window = self.data.index
        if window is None:
            return ""
        last = np.inf if window.after is None else self.index + window.after * DAY
        if self.asked[name].take == "deceased":
            return self._deceased(last)
        return self._take(name, lambda e: e.last > self.index and e.first <= last)

    def bins(self, name: str, data: SeriesData) -> list[tuple[int, float]]:
        """Number and value of each bin that has one."""
        end, width = self.index - data.index.gap * DAY, data.hours * 3600.0
        slots: dict[int, list[Event]] = {}
        for event in self.chart.events.get(name, []):
            if event.known > end:
                continue
            slot = data.bins - 1 - int((end - event.last) // width)
            if slot >= 0:
                slots.setdefault(slot, []).append(event)
        take = str(self.asked[name].take)
        found = {slot: taken(events, take) for slot, events in slots.items()}
        return [(slot, float(v)) for slot, v in found.items() if isinstance(v, float | int)]

    def _take(self, name: str, chosen: Callable[[Event], bool]) -> str:
        take = str(self.asked[name].take)
        if take == "age":
            birth = self.chart.birth
            return "" if birth is None else repr(max(0.0, (self.index - birth.middle) / YEAR))
        if take == "gender":
            return self.chart.gender
        events = [event for event in self.chart.events.get(name, []) if chosen(event)]
        if take == "onset":
            begun, birth = _edge(events, "first"), self.chart.birth
            if begun is None or birth is None:
                return ""
            return repr(max(0.0, (begun - birth.middle) / YEAR))
        value = taken(events, take)
        return "" if value is None else value if isinstance(value, str) else repr(value)

    def _deceased(self, last: float) -> str:
        if self.chart.death is not None:
            return "1" if self.chart.death.first <= last else "0"
        return "" if self.chart.deceased is None else str(int(self.chart.deceased))


def taken(events: Sequence[Event], take: str) -> Value:
    """One value of some events; None where there is none.

    Args:
        events: In any order; of those that began together the later in the file is the last.
        take: As in `study/origins.py`.
    """
    if take == "count":
        return len(events)
    if take == "any":
        return int(bool(events))
    ordered = sorted(events, key=lambda event: event.first)
    values = [event.value for event in ordered if event.value is not None]
    if not values:
        return None
    if take in ("first", "last"):
        return values[0 if take == "first" else -1]
    numbers: NDArray[np.float64] = np.array([v for v in values if isinstance(v, float | int)])
    if not len(numbers):
        return None
    if take == "mean":
        return float(numbers.mean())
    return float(numbers.min() if take == "min" else numbers.max())


__all__ = ["ENCOUNTER", "INDEX", "Asked", "Chart", "Event", "Span", "asked_of", "records_of"]
