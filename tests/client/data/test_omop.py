"""OMOP databases become the same rows as FHIR records of the same patients."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from fedward.client.data.context import Context
from fedward.client.data.faults import ListedFaults
from fedward.client.data.omop import read_omop
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import OmopSource
from fedward.study.errors import DataError
from tests.client.data.test_fhir import (
    FEATURES,
    PULSE,
    STROKE,
    patient,
    pulse,
    read,
    stroke,
    study_of,
)

pytest.importorskip("sqlalchemy")

SCHEMA = """
create table person (person_id integer primary key, gender_concept_id integer,
  year_of_birth integer, month_of_birth integer, day_of_birth integer, birth_datetime text);
create table measurement (measurement_id integer primary key, person_id integer,
  measurement_concept_id integer, measurement_date text, measurement_datetime text,
  value_as_number real, value_as_concept_id integer, unit_concept_id integer,
  operator_concept_id integer);
create table observation (observation_id integer primary key, person_id integer,
  observation_concept_id integer, observation_date text, observation_datetime text,
  value_as_number real, value_as_string text, value_as_concept_id integer,
  unit_concept_id integer);
create table condition_occurrence (condition_occurrence_id integer primary key,
  person_id integer, condition_concept_id integer, condition_start_date text,
  condition_start_datetime text);
create table drug_exposure (drug_exposure_id integer primary key, person_id integer,
  drug_concept_id integer, drug_exposure_start_date text, drug_exposure_start_datetime text);
create table visit_occurrence (visit_occurrence_id integer primary key, person_id integer,
  visit_concept_id integer, visit_start_date text, visit_start_datetime text);
insert into person values (1, 8507, 1970, 1, 1, null);
"""
OMOP_PULSE = {"table": "measurement", "concept": 3027018, "unit": 8541}
OMOP_STROKE = {"table": "condition_occurrence", "concept": [381316, 4110189]}
BOTH: Any = {
    "pulse": {"fhir": PULSE | {"take": "last"}, "omop": OMOP_PULSE | {"take": "last"}},
}
LABEL = {"fhir": STROKE | {"take": "any"}, "omop": OMOP_STROKE | {"take": "any"}}


def database(folder: Path, *rows: str) -> OmopSource:
    file = folder / "omop.sqlite"
    file.unlink(missing_ok=True)
    with sqlite3.connect(file) as made:
        made.executescript(SCHEMA + "".join(f"insert into {row};" for row in rows))
    made.close()
    return OmopSource(format="omop", path="omop.sqlite")


def rows_of(folder: Path, *rows: str, features: Any = BOTH, **data: Any) -> RawRecords:  # noqa: ANN401
    study = study_of(features, label=LABEL, **data)
    return read_omop(database(folder, *rows), study, Context(folder))


def measured(value: float, at: str, time: str = "null", unit: str = "8541", op: str = "0") -> str:
    return f"measurement values (null, 1, 3027018, '{at}', {time}, {value}, null, {unit}, {op})"


def test_one_study_gives_the_same_from_fhir_and_from_omop(tmp_path: Path) -> None:
    omop = rows_of(
        tmp_path,
        measured(60, "2020-01-01"),
        measured(70, "2020-01-02"),
        measured(99, "2020-06-15"),
        "condition_occurrence values (null, 1, 4110189, '2020-07-01', null)",
    )
    fhir = read(
        tmp_path / "fhir",
        patient("1"),
        *(pulse(v, at, "Patient/1") for v, at in ((60, "2020-01-01"), (70, "2020-01-02"))),
        pulse(99, "2020-06-15", "Patient/1"),
        stroke("2020-07-01", "Patient/1"),
        study=study_of(BOTH, label=LABEL),
    )

    assert omop.whole.tolist() == fhir.whole.tolist() == [[70]]
    assert omop.whole_labels.tolist() == fhir.whole_labels.tolist() == [1]
    assert omop.names.tolist() == fhir.names.tolist() == ["1"]


def test_midnight_is_a_day_whose_time_is_not_known(tmp_path: Path) -> None:
    index = {
        "by": "event",
        "which": "first",
        "fhir": STROKE | {"take": "any"},
        "omop": OMOP_STROKE | {"take": "any"},
    }
    ill = "condition_occurrence values (null, 1, 381316, '2020-03-03', '2020-03-03 12:00:00')"
    day = measured(99, "2020-03-03", "'2020-03-03 00:00:00'")
    hour = measured(61, "2020-03-03", "'2020-03-03 00:10:00'")

    assert rows_of(tmp_path, ill, measured(60, "2020-03-02"), day, index=index).whole == 60
    assert rows_of(tmp_path, ill, measured(60, "2020-03-02"), hour, index=index).whole == 61


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (measured(60, "2020-01-01", unit="8876"), "in the unit 8876"),
        (measured(60, "2020-01-01", unit="null"), "in the unit none"),
        (measured(60, "2020-01-01", op="4171756"), "above or below"),
        (measured(60, "someday"), "a date that is none"),
        (measured(60, "2020-01-01").replace("1, 3027018", "7, 3027018"), "not in the table person"),
    ],
)
def test_what_cannot_be_used_is_named(row: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        rows_of(tmp_path, row)


def test_other_tables_are_counted(tmp_path: Path) -> None:
    features: Any = {
        "drugs": {"omop": {"table": "drug_exposure", "concept": 1, "take": "count"}},
        "visits": {"omop": {"table": "visit_occurrence", "take": "count"}},
        "urgent": {"omop": {"table": "visit_occurrence", "concept": 9203, "take": "count"}},
        "man": {
            "categories": ["male", "female"],
            "omop": {"table": "person", "take": "gender"},
        },
        "smokes": {
            "categories": [4144272, 45879404],
            "omop": {"table": "observation", "concept": 40766362, "take": "last"},
        },
    }
    raw = read_omop(
        database(
            tmp_path,
            "drug_exposure values (null, 1, 1, '2020-01-01', null)",
            "drug_exposure values (null, 1, 2, '2020-01-01', null)",
            "visit_occurrence values (null, 1, 9203, '2020-01-01', null)",
            "visit_occurrence values (null, 1, 9202, '2020-01-01', null)",
            "observation values (null, 1, 40766362, '2020-01-01', null, null, null, 45879404, 0)",
        ),
        study_of(features, label={"omop": OMOP_STROKE | {"take": "any"}}),
        Context(tmp_path),
    )

    assert raw.whole.tolist() == [[1, 2, 1, 1, 0, 0, 1]]


def test_the_database_is_only_read(tmp_path: Path) -> None:
    source = database(tmp_path, measured(60, "2020-01-01"))
    file = tmp_path / "omop.sqlite"
    before = file.read_bytes()
    file.chmod(0o400)
    read_omop(source, study_of(BOTH, label=LABEL), Context(tmp_path))

    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"omop.sqlite"}


def test_codes_are_bound_and_never_part_of_a_statement(tmp_path: Path) -> None:
    from fedward.client.data.omop import _events
    from fedward.study.origins import OmopCondition

    statement = str(
        _events(OmopCondition(table="condition_occurrence", concept=381316, take="any"))
    )
    assert "381316" not in statement
    assert ":condition_concept_id" in statement.replace("(__[POSTCOMPILE_", "(:")


SECRET = "hunter2"


@pytest.mark.parametrize(
    ("address", "mode"),
    [
        (f"postgresql://reader:{SECRET}@localhost:1/omop", 0o600),  # no driver, or nobody there
        (f"nonsense://reader:{SECRET}@localhost/omop", 0o600),
        (f"reader:{SECRET}", 0o600),
        (f"sqlite:////nowhere/{SECRET}/omop", 0o600),
        (f"sqlite:////tmp/{SECRET}", 0o640),
    ],
)
def test_no_message_holds_the_address(address: str, mode: int, tmp_path: Path) -> None:
    file = tmp_path / "address"
    file.write_text(address + "\n", encoding="utf-8")
    file.chmod(mode)

    with pytest.raises(DataError) as caught:
        read_omop(
            OmopSource(format="omop", url_file="address"),
            study_of(BOTH, label=LABEL),
            Context(tmp_path),
        )
    assert SECRET not in caught.value.line()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    assert ("others can read" in caught.value.line()) == (mode == 0o640)


def test_an_address_in_a_file_of_its_owner_is_used(tmp_path: Path) -> None:
    database(tmp_path, measured(60, "2020-01-01"))
    file = tmp_path / "address"
    file.write_text(f"sqlite:///{tmp_path}/omop.sqlite\n", encoding="utf-8")
    file.chmod(0o600)
    source = OmopSource(format="omop", url_file="address")
    raw = read_omop(source, study_of(BOTH, label=LABEL), Context(tmp_path))

    assert raw.whole.tolist() == [[60]]


def test_a_database_without_the_tables_or_the_study_without_omop_is_refused(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "omop.sqlite").close()
    source = OmopSource(format="omop", path="omop.sqlite")

    with pytest.raises(DataError, match="cannot be read"):
        read_omop(source, study_of(BOTH, label=LABEL), Context(tmp_path))
    with pytest.raises(DataError, match="does not say where 'pulse' comes from in OMOP"):
        read_omop(source, study_of(FEATURES), Context(tmp_path))


def test_faults_are_listed_and_the_person_left_out(tmp_path: Path) -> None:
    source = database(
        tmp_path,
        "person values (2, 8532, 1980, null, null, null)",
        measured(60, "2020-01-01", unit="8876"),
        measured(61, "2020-01-01").replace("null, 1,", "null, 2,"),
    )
    faults = ListedFaults()
    raw = read_omop(source, study_of(BOTH, label=LABEL), Context(tmp_path, faults))

    assert [row for row, _ in faults.found if row == 0]
    assert raw.names.tolist() == ["2"]
