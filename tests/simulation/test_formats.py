"""A data set's format is guessed where its files say it, and asked for where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedward.client.data.reading import _READERS
from fedward.simulation.formats import format_of
from fedward.study.errors import DataError
from fedward.study.study import Study, parse_study
from tests.simulation.conftest import study_of

IMAGES = {"kind": "images", "shape": [1, 8, 8]}
SIGNALS = {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8}
TABLE: dict[str, Any] = {}
GUESSED = [
    (TABLE, "t.csv", "csv"),
    (TABLE, "t.csv.gz", "csv"),
    (TABLE, "T.CSV", "csv"),
    (TABLE, "t.tsv", "csv"),
    (TABLE, "t.tsv.gz", "csv"),
    (TABLE, "t.parquet", "parquet"),
    (TABLE, "t.arff", "arff"),
    (TABLE, "t.jsonl.gz", "jsonl"),
    (TABLE, "t.fa", "fasta"),
    (TABLE, "t.ndjson", "fhir"),
    (TABLE, "t.sqlite", "omop"),
    (TABLE, "folder/a.parquet", "parquet"),
    (TABLE, "folder/Patient.ndjson.gz", "fhir"),
    (TABLE, "folder/bundle.json", "fhir"),
    (IMAGES, "t.npz", "npz"),
    (IMAGES, "folder/yes/a.PNG", "folder"),
    (IMAGES, "folder/a.dcm", "dicom"),
    (IMAGES, "folder/scan.nii.gz", "nifti"),
    (SIGNALS, "t.npz", "signal-npz"),
    (SIGNALS, "folder/100.hea", "wfdb"),
    (SIGNALS, "folder/night.edf", "edf"),
    (SIGNALS, "folder/one.csv", "signal-csv"),
]


def of(data: dict[str, Any]) -> Study:
    whole = study_of().model_dump(mode="json", exclude_none=True)
    return parse_study({**whole, "data": data} if data else whole)


@pytest.mark.parametrize(("data", "file", "expected"), GUESSED)
def test_a_name_says_the_format(
    tmp_path: Path, data: dict[str, Any], file: str, expected: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(b"")
    if "folder" in file:
        (tmp_path / "folder" / "labels.csv").write_text("file,label\n")
    whole = tmp_path / file.split("/", maxsplit=1)[0]
    assert format_of(whole, of(data)) == expected


def test_every_format_but_those_without_files_can_be_guessed() -> None:
    assert {expected for *_, expected in GUESSED} == set(_READERS) - {"bundled"}


def test_dicom_files_without_suffix_are_known_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    assert format_of(tmp_path, of(IMAGES)) == "dicom"


@pytest.mark.parametrize(
    ("data", "files", "said"),
    [
        (IMAGES, ["a.png", "b.dcm"], "several formats: dicom, folder"),
        (SIGNALS, ["a.txt"], "no files that are read as signals"),
        (TABLE, ["a.parquet", "b.json"], "several formats: fhir, parquet"),
    ],
)
def test_nothing_is_guessed_between_two(
    tmp_path: Path, data: dict[str, Any], files: list[str], said: str
) -> None:
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(DataError, match=said) as told:
        format_of(tmp_path, of(data))
    assert "[simulation] source" in told.value.line()


def test_a_file_of_no_known_type_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"files of type '\.xlsx' are not read"):
        format_of(tmp_path / "a.xlsx", of(TABLE))
