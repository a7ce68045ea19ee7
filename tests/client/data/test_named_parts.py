"""Divisions that a hospital's file says: by patients' names, or a file a part."""

from __future__ import annotations

from typing import Any

import pytest

from fedward.client.data.parts import assign
from fedward.client.data.reading import read_parts
from fedward.study.errors import DataError, HospitalError
from fedward.study.parts import GivenParts
from tests.client.data.conftest import Ward

CSV: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "who"}
ROWS = "who,age,sex,diagnosis\na,65,f,0\nb,45,m,1\na,55,f,1\nc,60,m,0\nd,61,m,0\n"
HEAD = "age,sex,diagnosis\n"
FILES = {"test": "c.csv", "train": "a.csv", "validation": "b.csv"}
FOLDER: dict[str, Any] = {"format": "csv", "path": ".", "patient": "record", "files": FILES}


@pytest.fixture
def table(ward: Ward) -> Ward:
    ward.write("t.csv", ROWS)
    return ward


@pytest.fixture
def files(ward: Ward) -> Ward:
    ward.write("a.csv", HEAD + "65,f,0\n45,m,1\n")
    ward.write("b.csv", "sex,age,diagnosis\nf,55,1\n")  # columns in another order
    ward.write("c.csv", HEAD + "60,m,0\n")
    return ward


# --- By patients' names ---------------------------------------------------------------------------


def test_patients_are_in_the_part_that_names_them_and_the_others_are_left_out(table: Ward) -> None:
    raw = table.read({**CSV, "parts": {"train": ["a", "d"], "test": ["c"]}}, {})

    assert raw.names.tolist() == ["a", "a", "c", "d"]
    assert assign(raw, GivenParts(), where="here").tolist() == ["train", "train", "test", "train"]
    assert raw.rows.tolist() == [0, 2, 3, 4]
    assert raw.dropped == 1
    assert ("left out", "1 records are of patients whom [data] parts does not name") in raw.facts


def test_two_names_of_one_patient_are_in_one_part(table: Ward) -> None:
    source = {**CSV, "same_patient": [["b", "c"]], "parts": {"train": ["a"], "test": ["b"]}}

    raw = table.read(source, {})

    assert raw.names.tolist() == ["a", "b", "a", "b"]
    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "test", "train", "test"]
    source["parts"] = {"train": ["a"], "test": ["c"]}
    with pytest.raises(DataError, match=r"no record is of a patient that .* parts names"):
        table.read(source, {})


def test_a_misspelt_patient_is_refused_and_not_left_out(table: Ward) -> None:
    with pytest.raises(DataError, match="no record is of a patient") as caught:
        table.read({**CSV, "parts": {"train": ["a"], "test": ["C"]}}, {})
    assert "C" not in str(caught.value).replace("[data]", "")  # no name in an error


def test_a_file_that_says_parts_too_is_refused(table: Ward) -> None:
    table.write("t.csv", ROWS.replace("sex", "part", 1).replace(",f,", ",train,"))

    with pytest.raises(DataError, match="parts says it too"):
        table.read(
            {**CSV, "parts": {"train": ["a"]}},
            {"data": {"kind": "table", "label": "diagnosis", "features": {"age": {}}}},
        )


@pytest.mark.parametrize(
    "data",
    [
        {**CSV, "parts": {"train": ["a", "b"], "test": ["b"]}},
        {**CSV, "parts": {"train": ["a", "a"]}},
        {**CSV, "parts": {"test": ["a"]}},
        {"format": "csv", "path": "t.csv", "parts": {"train": ["a"]}},
        {**FOLDER, "parts": {"train": ["a"]}},
        {**FOLDER, "files": {}},
        {**FOLDER, "files": {"training": "a.csv"}},
    ],
)
def test_what_cannot_be_meant_is_refused(data: dict[str, Any], table: Ward) -> None:
    with pytest.raises(HospitalError):
        table.hospital(data)


# --- A file a part --------------------------------------------------------------------------------


def test_rows_of_several_files_are_in_the_parts_of_their_files(files: Ward) -> None:
    study = {"data": {**_table(), "parts": {"by": "file"}}}

    raw = files.read(FOLDER, study)

    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "train", "validation", "test"]
    assert raw.rows.tolist() == [0, 1, 2, 3]
    assert raw.inputs[:].ravel().tolist() == [65, 45, 55, 60]
    assert raw.whole_labels.tolist() == [0, 1, 1, 0]
    parts = read_parts(files.hospital(FOLDER), files.study_with(study), files.folder)
    assert {part: len(records) for part, records in parts.items()} == {
        "train": 2,
        "validation": 1,
        "test": 1,
    }


def test_a_number_that_is_none_is_named_wherever_it_stands(files: Ward) -> None:
    files.write("c.csv", HEAD + "old,m,0\n")

    with pytest.raises(DataError, match="row 4, column 'age'"):
        files.read(FOLDER, {"data": _table()})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("sex,diagnosis\nm,0\n", "c.csv: has no column 'age'"),
        ("age,diagnosis,part\n60,0,test\n", r"c.csv: has a column 'part', and .* files says"),
    ],
)
def test_a_file_of_other_columns_is_refused(content: str, says: str, files: Ward) -> None:
    files.write("c.csv", content)

    with pytest.raises(DataError, match=says):
        files.read(FOLDER, {"data": _table()})


def _table() -> dict[str, Any]:
    return {"kind": "table", "label": "diagnosis", "features": {"age": {}}}


def test_a_column_of_numbers_in_one_file_alone_is_told_as_it_is_written(files: Ward) -> None:
    files.write("a.csv", HEAD + "9e99,f,0\n45,m,1\n")
    files.write("c.csv", HEAD + "high,m,0\n")

    with pytest.raises(DataError, match="'9e99' is not a finite number"):
        files.read(FOLDER, {})
