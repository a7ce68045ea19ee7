"""FHIR R4: the few resources that a study may ask for, as one chart for each patient.

What counts: Observations that are final, amended or corrected; Conditions that are confirmed or say
nothing of it; Encounters that took or take place; MedicationRequests that were ordered. What was
entered in error counts nowhere. A resource that is asked for and says that it means something else
by an extension (`modifierExtension`, `implicitRules`) is a fault, as FHIR wants of readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fedward.client.data.charts import (
    ENCOUNTER,
    INDEX,
    Asked,
    Chart,
    Event,
    Span,
    Value,
    asked_of,
    charted_records,
)
from fedward.client.data.context import Context
from fedward.client.data.fhir_files import Found, Json, fhir_files, resources
from fedward.client.data.fhir_resources import (
    Code,
    Column,
    Fault,
    Unusable,
    code_of,
    codes_of,
    counts,
    dicts,
    means_something_else,
    own_names,
    quantity,
    reference_of,
    subject_of,
    unversioned,
    when,
)
from fedward.client.data.fhir_times import span_of
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import FhirSource
from fedward.study.any_data import label_text
from fedward.study.errors import DataError
from fedward.study.origins import FhirCoded, FhirEncounter, FhirObservation
from fedward.study.study import Study
from fedward.study.table_data import Feature, TableData

_GENDERS = {"male", "female", "other", "unknown"}
_NUMBERS_ONLY = {"mean", "min", "max"}
_NO_VALUE = {"any", "count"}
_MOST_FAULTS = 10_000  # that are listed; what makes more is no export


class _Waiting(NamedTuple):
    """An event whose patient may still be to come.

    Attributes:
        reference: What it calls the patient.
        columns: That look for it, with the event for each.
        medicine: What it calls the medicine, where another resource says the code.
        where: File and place.
    """

    reference: str
    events: tuple[tuple[Column, Event], ...]
    medicine: str
    where: tuple[str, str]


def read_fhir(source: FhirSource, study: Study, context: Context) -> RawRecords:
    """A record for each patient of a folder of FHIR files.

    Args:
        source: Where they are.
        study: Says what each column comes from.
        context: The hospital's folder, and who is told of what cannot be used.

    Raises:
        DataError: A file, a resource or a value is not as the study needs it; nobody is named.
    """
    path = context.folder / source.path
    asked = asked_of(study, "fhir", where=str(path))
    reader = _Reader(asked, study)
    files = fhir_files(path)
    for number, file in enumerate(files):
        try:
            for found in resources(file, reader.bad.append):
                reader.take(found, str(file))
        except DataError as error:
            reader.bad.append(error)
        context.progress(number + 1, len(files))
    charts = reader.charts()
    for row, fault in reader.of_patients:
        context.faults.add(fault, row)
    for number, fault in enumerate(reader.bad):
        context.faults.add(fault, len(charts) + number)
    return charted_records(
        charts, asked, source, study, context.faults, where=str(path), lost=len(reader.bad)
    )


class _Reader:
    """Takes resources in any order, and puts them together at the end."""

    def __init__(self, asked: Asked, study: Study) -> None:
        self.bad: list[DataError] = []
        self.of_patients: list[tuple[int, DataError]] = []
        self._asked = asked
        self._categories = _categories(study)
        self._numbers = _numbers(asked, study)
        self._charts: dict[str, Chart] = {}
        self._faulty: dict[str, DataError] = {}
        self._names: dict[str, str] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._known = 0
        self._waiting: list[_Waiting] = []
        self._medicines: dict[str, frozenset[Code]] = {}
        index = getattr(study.data, "index", None)
        self._all_encounters = getattr(index, "otherwise", None) == "last_encounter"
        self._columns: dict[str, dict[Code, list[Column]]] = {}
        self._all: dict[str, list[Column]] = {}
        for column, query in asked.items():
            if not isinstance(query, FhirCoded):
                continue
            kind = query.resource
            if isinstance(query, FhirEncounter) and query.code is None:
                self._all.setdefault(kind, []).append(column)
            for code in query.codes:
                table = self._columns.setdefault(kind, {})
                table.setdefault((query.system, code), []).append(column)
        if self._all_encounters:
            self._all.setdefault("Encounter", []).append(ENCOUNTER)

    def take(self, found: Found, file: str) -> None:
        """One resource; a fault of it is kept."""
        resource = found.resource
        kind = resource.get("resourceType")
        where = (file, found.place)
        try:
            if not isinstance(kind, str):
                if resource:  # an entry may be without one
                    raise Fault("it does not say what it is")
            elif kind == "Patient":
                self._patient(resource, found.full_url, where)
            elif kind == "Medication" and "MedicationRequest" in self._columns:
                codes = frozenset(codes_of(resource.get("code")))
                for name in own_names(resource, found.full_url):
                    self._medicines[name] = codes
            elif kind in self._columns or kind in self._all:
                self._event(kind, resource, where)
        except Fault as fault:
            self.bad.append(_error(str(fault), where))
            if len(self.bad) > _MOST_FAULTS:
                raise _error("too many resources cannot be used to go on", where) from None

    def charts(self) -> list[Chart]:
        """Every patient, in the order of the files, with what was found of them."""
        rows = {name: row for row, name in enumerate(self._charts)}
        for name, error in self._faulty.items():
            self.of_patients.append((rows[name], error))
        for waiting in self._waiting:
            owner = self._names.get(unversioned(waiting.reference))
            if owner is None:
                self.bad.append(_error("its patient is in none of the files", waiting.where))
                continue
            events = waiting.events
            if waiting.medicine:
                codes = self._medicines.get(unversioned(waiting.medicine))
                if codes is None:
                    self.bad.append(_error("its medicine is in none of the files", waiting.where))
                    continue
                wanted = self._found("MedicationRequest", codes)
                events = tuple((column, e) for column, e in events if column in wanted)
            for column, event in events:
                if isinstance(event.value, Unusable):
                    error = _error(str(event.value), waiting.where)
                    self.of_patients.append((rows[owner], error))
                else:
                    self._charts[owner].events.setdefault(column, []).append(event)
        return list(self._charts.values())

    # --- One resource -----------------------------------------------------------------------------

    def _patient(self, resource: Json, full_url: str, where: tuple[str, str]) -> None:
        name = resource.get("id")
        if not isinstance(name, str) or not name:
            raise Fault("a patient without an id")
        chart = Chart(name)
        wrong = ""
        if means_something_else(resource):
            wrong = "has a modifier that is not understood"
        if resource.get("birthDate") is not None:
            chart.birth = span_of(resource["birthDate"])
            wrong = wrong or ("" if chart.birth else "birthDate is no date")
        gender = resource.get("gender")
        chart.gender = gender if isinstance(gender, str) and gender in _GENDERS else ""
        if resource.get("deceasedDateTime") is not None:
            chart.death = span_of(resource["deceasedDateTime"])
            wrong = wrong or ("" if chart.death else "deceasedDateTime is no time")
        elif resource.get("deceasedBoolean") is True:
            chart.deceased = None  # nobody says when
        facts = hash((chart.birth, chart.gender, chart.death, chart.deceased))
        if self._again("Patient", name, facts):
            for other in own_names(resource, full_url):
                self._names[other] = name
            return
        self._charts[name] = chart
        for other in own_names(resource, full_url):
            self._names[other] = name
        if wrong:
            self._faulty[name] = _error(wrong, where)

    def _event(self, kind: str, resource: Json, where: tuple[str, str]) -> None:
        if not counts(kind, resource):
            return
        medicine = ""
        if kind == "Observation":
            events = [*self._observed(resource)]
        else:
            codes = set(codes_of(resource.get("code")))
            if kind == "Encounter":
                codes = {code_of(resource.get("class"))}
            if kind == "MedicationRequest":
                codes, medicine = self._medicine(resource)
            columns = self._found(kind, codes)
            if medicine:  # any that is asked for; which, its code will say
                columns = {c for each in self._columns.get(kind, {}).values() for c in each}
            span, known = when(kind, resource) if columns else (Span(0, 0), 0.0)
            events = [(column, Event(span.first, span.last, known)) for column in sorted(columns)]
        if not events:
            return
        if means_something_else(resource):
            raise Fault("it has a modifier that is not understood")
        reference = subject_of(resource)
        if reference is None:
            return
        name = resource.get("id")
        if isinstance(name, str) and self._again(kind, name, hash((reference, tuple(events)))):
            return
        self._waiting.append(_Waiting(reference, tuple(events), medicine, where))

    def _found(self, kind: str, codes: set[Code] | frozenset[Code]) -> set[Column]:
        table = self._columns.get(kind, {})
        found = {column for code in codes for column in table.get(code, ())}
        return found | set(self._all.get(kind, ()))

    def _again(self, kind: str, name: str, facts: int) -> bool:
        """Whether it was there before, as where two exports overlap."""
        before = self._seen.setdefault((kind, name), facts)
        if before != facts:
            raise Fault(f"a {kind} of the same id, but another content, was there before")
        size, self._known = self._known, len(self._seen)
        return size == self._known

    def _medicine(self, resource: Json) -> tuple[set[Code], str]:
        """Its codes, or what it calls the resource that has them."""
        if resource.get("medicationCodeableConcept") is not None:
            return set(codes_of(resource["medicationCodeableConcept"])), ""
        reference = reference_of(resource.get("medicationReference"))
        if reference.startswith("#"):
            for inside in dicts(resource.get("contained")):
                if inside.get("id") == reference[1:]:
                    return set(codes_of(inside.get("code"))), ""
            raise Fault("its medicine is not in it")
        return set(), reference

    def _observed(self, resource: Json) -> Iterator[tuple[Column, Event]]:
        """Of the observation itself and of its components."""
        parts = [resource, *dicts(resource.get("component"))]
        for part in parts:
            for column in sorted(self._found("Observation", set(codes_of(part.get("code"))))):
                query = self._asked[column]
                if not isinstance(query, FhirObservation) or part.get("dataAbsentReason"):
                    continue
                value: Value = None
                if query.take not in _NO_VALUE and column != INDEX:
                    value = self._value(part, column, query)
                    if value is None:
                        continue
                span, known = when("Observation", resource)
                yield column, Event(span.first, span.last, known, value)

    def _value(self, part: Json, column: Column, query: FhirObservation) -> Value:
        given = [key for key in part if key.startswith("value") and part[key] is not None]
        if not given:
            return None
        key, raw = given[0], part[given[0]]
        numbers_only = column in self._numbers
        if key == "valueQuantity" and isinstance(raw, dict):
            return quantity(raw, column, query.unit)
        if key == "valueInteger" and isinstance(raw, int) and query.unit is None:
            return float(raw)
        if numbers_only:
            return Unusable(f"{column!r} is no number")
        if key == "valueCodeableConcept":
            codes = [code for _, code in codes_of(raw)]
            known = [c for c in codes if label_text(c) in self._categories.get(column, ())]
            return next(iter([*known, *codes]), None)
        if key == "valueString" and isinstance(raw, str):
            return raw
        if key == "valueBoolean" and isinstance(raw, bool):
            return "true" if raw else "false"
        return Unusable(f"{column!r} is of a kind that is not read")


def _categories(study: Study) -> dict[Column, set[str]]:
    """Values that a study knows of a column."""
    if not isinstance(study.data, TableData):
        return {}
    features: dict[str, Feature] = study.data.features
    return {
        name: {label_text(c) for c in spec.categories}
        for name, spec in features.items()
        if spec.categories is not None
    }


def _numbers(asked: Asked, study: Study) -> set[Column]:
    """Columns that only numbers can be in."""
    series = study.data.kind == "series"
    numeric = study.data.features if series else {}  # type: ignore[union-attr]
    return {c for c, q in asked.items() if q.take in _NUMBERS_ONLY or c in numeric}


def _error(what: str, where: tuple[str, str]) -> DataError:
    return DataError(
        f"{where[1]}: {what}", todo="mend it at its source and export it anew", where=where[0]
    )
