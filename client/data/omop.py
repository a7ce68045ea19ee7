"""OMOP common data model 5.4: the few tables that a study may ask for, one chart for each person.

The database is only read. What is looked for is bound to statements as parameters. A time of
exactly midnight is a day whose time nobody knew: so loaders write it.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

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
from fedward.client.data.extras import need
from fedward.client.data.fhir_times import span_of
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import OmopSource
from fedward.study.errors import DataError
from fedward.study.origins import OmopMeasured, OmopPerson, OmopVisit
from fedward.study.study import Study

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Select

_AT_ONCE = 10_000  # rows that are held
_MOST_OF_ADDRESS = 4096  # bytes
_NO_VALUE = ("any", "count")
_EQUAL = 4172703  # concept of the operator "="
_GENDERS = {8507: "male", 8532: "female"}


class _Columns(NamedTuple):
    """What the columns of a table are called."""

    concept: str
    date: str
    time: str
    values: tuple[str, ...] = ()


_TABLES = {
    "measurement": _Columns(
        "measurement_concept_id",
        "measurement_date",
        "measurement_datetime",
        ("value_as_number", "value_as_concept_id", "unit_concept_id", "operator_concept_id"),
    ),
    "observation": _Columns(
        "observation_concept_id",
        "observation_date",
        "observation_datetime",
        ("value_as_number", "value_as_concept_id", "unit_concept_id", "value_as_string"),
    ),
    "condition_occurrence": _Columns(
        "condition_concept_id", "condition_start_date", "condition_start_datetime"
    ),
    "drug_exposure": _Columns(
        "drug_concept_id", "drug_exposure_start_date", "drug_exposure_start_datetime"
    ),
    "visit_occurrence": _Columns("visit_concept_id", "visit_start_date", "visit_start_datetime"),
}
_PERSON = (
    "person_id",
    "gender_concept_id",
    "year_of_birth",
    "month_of_birth",
    "day_of_birth",
    "birth_datetime",
)


def read_omop(source: OmopSource, study: Study, context: Context) -> RawRecords:
    """A record for each person of an OMOP database.

    Args:
        source: Where it is.
        study: Says what each column comes from.
        context: The hospital's folder, and who is told of what cannot be used.

    Raises:
        DataError: The database cannot be read, or a value is not as the study needs it. Neither the
            database's address nor a person is in the message.
        OptionError: SQLAlchemy is not installed.
    """
    need("sqlalchemy", extra="records")
    where = str(context.folder / source.path) if source.path else "the OMOP database"
    asked = asked_of(study, "omop", where=where)
    index = getattr(study.data, "index", None)
    if getattr(index, "otherwise", None) == "last_encounter":
        asked = {**asked, ENCOUNTER: OmopVisit(table="visit_occurrence", take="any")}
    reader = _Reader(asked, where)
    engine = _engine(source, context.folder)
    try:
        with engine.connect() as connection:
            reader.read(_only_reading(connection))
    except DataError:
        raise
    except Exception as error:  # a driver's message may quote the address, or a row
        raise DataError(
            f"cannot be read ({type(error).__name__})",
            todo="check the address, the account's rights and that the tables are CDM 5.4's",
            where=where,
        ) from None
    finally:
        engine.dispose()
    for row, fault in reader.faults:
        context.faults.add(fault, row)
    charts = [*reader.charts.values()]
    return charted_records(charts, asked, source, study, context.faults, where=where)


class _Reader:
    def __init__(self, asked: Asked, where: str) -> None:
        self.charts: dict[Any, Chart] = {}
        self.faults: list[tuple[int, DataError]] = []
        self._rows: dict[Any, int] = {}
        self._asked = asked
        self._where = where

    def read(self, connection: Connection) -> None:
        """All persons, and then what each column looks for."""
        for found in _rows(connection, _persons()):
            self._person(found)
        for column, query in self._asked.items():
            if not isinstance(query, OmopPerson):
                for found in _rows(connection, _events(query)):
                    self._event(column, query, found)

    def _person(self, found: Any) -> None:  # noqa: ANN401 - a row
        number = found.person_id
        self._rows[number] = len(self._rows)
        birth = _moment(None, found.birth_datetime)
        if birth is None and found.year_of_birth is not None:
            birth = _birth(found.year_of_birth, found.month_of_birth, found.day_of_birth)
        gender = _GENDERS.get(found.gender_concept_id, "unknown")
        self.charts[number] = Chart(str(number), birth, gender)

    def _event(self, column: str, query: Any, found: Any) -> None:  # noqa: ANN401
        chart = self.charts.get(found.person_id)
        if chart is None:
            raise DataError(
                f"a row of {query.table} is of a person who is not in the table person",
                todo="mend the load of the database",
                where=self._where,
            )
        row = self._rows[found.person_id]
        span = _moment(found.date, found.time)
        if span is None:
            self._fault(row, column, "a date that is none")
            return
        value: Value = None
        if isinstance(query, OmopMeasured) and not (column == INDEX or query.take in _NO_VALUE):
            value, wrong = _value(found, query)
            if wrong:
                self._fault(row, column, wrong)
            if value is None:
                return
        event = Event(span.first, span.last, span.last, value)
        chart.events.setdefault(column, []).append(event)

    def _fault(self, row: int, column: str, what: str) -> None:
        error = DataError(
            f"person {row + 1} (in order of person_id), {column.strip()!r}: {what}",
            todo="mend it in the database",
            where=self._where,
        )
        self.faults.append((row, error))


def _value(found: Any, query: OmopMeasured) -> tuple[Value, str]:  # noqa: ANN401 - a row
    """A value, or what is wrong with it; neither where there is none."""
    if found.value_as_number is not None:
        operator = getattr(found, "operator_concept_id", None)
        if operator not in (None, 0, _EQUAL):
            return None, "a value that is only above or below a number"
        unit = found.unit_concept_id or None
        if unit != (query.unit or None):
            return None, f"a value in the unit {unit or 'none'}, not {query.unit or 'none'}"
        try:
            return float(found.value_as_number), ""
        except (TypeError, ValueError):
            return None, "a value that is no number"
    text = getattr(found, "value_as_string", None)
    known = found.value_as_concept_id or None
    if known is None and not text:
        return None, ""
    if query.take in ("mean", "min", "max"):
        return None, "a value that is no number"
    return str(known or text), ""


# --- Statements -----------------------------------------------------------------------------------


def _persons() -> Select[Any]:
    from sqlalchemy import column, select, table

    person = table("person", *map(column, _PERSON))
    return select(*person.c).order_by(person.c.person_id)


def _events(query: Any) -> Select[Any]:  # noqa: ANN401 - any query but a person's
    """The rows of one query, in an order that does not change."""
    from sqlalchemy import column, select, table

    names = _TABLES[query.table]
    key = f"{query.table}_id"
    wanted = ("person_id", names.concept, names.date, names.time, *names.values, key)
    source = table(query.table, *map(column, wanted))
    statement = select(
        source.c.person_id,
        source.c[names.date].label("date"),
        source.c[names.time].label("time"),
        *(source.c[value] for value in names.values),
    )
    if query.concepts:
        statement = statement.where(source.c[names.concept].in_(query.concepts))
    return statement.order_by(source.c.person_id, source.c[key])


def _rows(connection: Connection, statement: Select[Any]) -> Iterator[Any]:
    yield from connection.execution_options(yield_per=_AT_ONCE).execute(statement)


# --- The database ---------------------------------------------------------------------------------


def _engine(source: OmopSource, folder: Path) -> Engine:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    if source.path is not None:
        path = (folder / source.path).resolve()
        if not path.is_file():
            raise DataError("no such file", todo="check the path", where=str(path))
        address = f"file:{quote(str(path))}?mode=ro"
        return create_engine(
            "sqlite://", creator=lambda: sqlite3.connect(address, uri=True), hide_parameters=True
        )
    file = folder / str(source.url_file)
    try:
        return create_engine(_address(file), hide_parameters=True)
    except (SQLAlchemyError, ImportError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"holds no database address that can be used ({type(error).__name__})",
            todo="write one line such as postgresql+psycopg://reader:password@host/omop, and "
            "install that driver",
            where=str(file),
        ) from None


def _address(file: Path) -> str:
    """The address, from a file of its owner alone."""
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(handle, encoding="utf-8") as opened:
            mode = os.fstat(opened.fileno())
            if not stat.S_ISREG(mode.st_mode) or mode.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise DataError(
                    "others can read the database's address, which may hold a password",
                    todo=f"chmod 600 {file}",
                    where=str(file),
                )
            return opened.read(_MOST_OF_ADDRESS).strip()
    except (OSError, UnicodeDecodeError):
        raise DataError(
            "the database's address cannot be read", todo="check the path", where=str(file)
        ) from None


def _only_reading(connection: Connection) -> Connection:
    """The connection, which changes nothing where the database can hold it to that."""
    if connection.dialect.name == "postgresql":
        return connection.execution_options(postgresql_readonly=True)
    return connection


def _moment(day: object, time: object) -> Span | None:
    """A date and a time of day as any driver gives them."""
    found = _text(time)
    if found and not found[10:].strip("T0:. Z+"):  # midnight: only the day is known
        found = found[:10]
    return span_of(found or _text(day), zoned=False)


def _text(value: object) -> str:
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value).strip().replace(" ", "T", 1) if value is not None else ""


def _birth(year: object, month: object, day: object) -> Span | None:
    text = f"{year:04d}" if isinstance(year, int) else ""
    if isinstance(month, int):
        text += f"-{month:02d}"
        text += f"-{day:02d}" if isinstance(day, int) else ""
    return span_of(text)
