"""Parquet: the same records as from the same table in CSV, whatever the columns' types."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedward.study.errors import DataError
from tests.client.data.conftest import DNA, Ward

SOURCE: dict[str, Any] = {"format": "parquet", "path": "t.parquet", "patient": "who"}
PLAIN: dict[str, Any] = {
    "who": ["a", "b", "a", "c"],
    "age": [65.0, 45.0, 55.0, 60.0],
    "sex": ["f", "m", "f", "m"],
    "diagnosis": [0, 1, 0, 1],
}


def write(folder: Path, name: str = "t.parquet", **columns: object) -> None:
    pq.write_table(pa.table({**PLAIN, **columns}), folder / name)


def test_a_table_is_read_as_the_study_says(ward: Ward) -> None:
    write(ward.folder)

    raw = ward.read(SOURCE, {})

    assert raw.whole.tolist() == [[1, 1, 0], [-1, 0, 1], [0, 1, 0], [0.5, 0, 1]]
    assert raw.whole_labels.tolist() == [0, 1, 0, 1]
    assert raw.names.tolist() == ["a", "b", "a", "c"]
    assert raw.patients.tolist() == [0, 1, 0, 2]


@pytest.mark.parametrize(
    "columns",
    [
        {"age": pa.array([65, 45, 55, 60], pa.int8())},
        {"age": pa.array([65, 45, 55, 60], pa.uint64())},
        {"age": pa.array([65, 45, 55, 60], pa.float16())},
        {"age": [decimal.Decimal("65.00"), *map(decimal.Decimal, ("45", "55", "60"))]},
        {"age": ["65", "4.5e1", "55.0", " 60"]},
        {"age": pa.array(["65", "45", "55", "60"]).dictionary_encode()},
        {"sex": pa.array(["f", "m", "f", "m"]).dictionary_encode()},
        {"sex": pa.array(["f", "m", "f", "m"], pa.large_string())},
        {"diagnosis": [0.0, 1.0, 0.0, 1.0]},
        {"diagnosis": [decimal.Decimal("0.0"), *map(decimal.Decimal, ("1.0", "0", "1"))]},
        {"diagnosis": pa.array(["benign", "malignant", "0", "1"]).dictionary_encode()},
    ],
)
def test_columns_of_other_types_mean_the_same(columns: dict[str, Any], ward: Ward) -> None:
    write(ward.folder)
    plain = ward.read(SOURCE, {})
    write(ward.folder, **columns)

    other = ward.read(SOURCE, {})

    assert np.array_equal(plain.whole, other.whole)
    assert np.array_equal(plain.whole_labels, other.whole_labels)


def test_names_of_patients_keep_every_digit(ward: Ward) -> None:
    numbers = [2**53, 2**53 + 1, 2**53, 7]
    write(ward.folder, who=pa.array(numbers, pa.int64()))

    raw = ward.read(SOURCE, {})

    assert raw.names.tolist() == [str(number) for number in numbers]
    assert len(set(raw.patients.tolist())) == 3


def test_dates_are_names_and_no_numbers(ward: Ward) -> None:
    days = [datetime.datetime(2020, 1, day) for day in (1, 2, 3, 4)]
    write(ward.folder, who=days)
    assert len(set(ward.read(SOURCE, {}).names.tolist())) == 4
    write(ward.folder, age=days)

    with pytest.raises(DataError, match=r"row 1, column 'age': '2020-01-01"):
        ward.read(SOURCE, {})


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"age": [65.0, None, 55.0, 60.0]}, "row 2, column 'age'"),
        ({"age": [65.0, float("nan"), 55.0, 60.0]}, "row 2, column 'age'"),
        ({"sex": ["f", "m", None, "m"]}, "row 3, column 'sex'"),
        ({"diagnosis": [0, 1, None, 1]}, "row 3, column 'diagnosis'"),
        ({"who": ["a", None, "b", "c"]}, "row 2, column 'who'"),
        ({"age": pa.nulls(4)}, "row 1, column 'age'"),
    ],
)
def test_what_is_missing_is_named_or_dropped(
    columns: dict[str, Any], named: str, ward: Ward
) -> None:
    write(ward.folder, **columns)
    with pytest.raises(DataError, match=named):
        ward.read(SOURCE, {})

    if "nulls" not in str(columns) and columns.get("age") != pa.nulls(4):
        raw = ward.read(SOURCE, {"data.missing": "drop"})
        assert (len(raw), raw.dropped) == (3, 1)


@pytest.mark.parametrize("column", [[[1], [2], [3], [4]], [b"1", b"2", b"3", b"4"]])
def test_columns_that_are_no_cells_are_refused(column: list[object], ward: Ward) -> None:
    write(ward.folder, age=column)
    with pytest.raises(DataError, match="column 'age' is of type"):
        ward.read(SOURCE, {})


def test_a_folder_is_its_files_in_order(ward: Ward) -> None:
    (ward.folder / "all").mkdir()
    write(ward.folder / "all", "b.parquet", age=[1.0, 2.0, 3.0, 4.0], extra=[0] * 4)
    write(ward.folder / "all", "a.parquet")

    raw = ward.read({**SOURCE, "path": "all"}, {})

    assert raw.rows.tolist() == list(range(8))
    assert raw.whole[:, 0].tolist()[:4] == [1, -1, 0, 0.5]


def test_a_folder_of_two_schemas_is_refused_by_the_files_name(ward: Ward) -> None:
    (ward.folder / "all").mkdir()
    write(ward.folder / "all", "a.parquet")
    pq.write_table(pa.table({"who": ["x"], "age": [1.0]}), ward.folder / "all" / "b.parquet")

    with pytest.raises(DataError, match=r"b\.parquet: has no column '(sex|diagnosis)'.*a\.parquet"):
        ward.read({**SOURCE, "path": "all"}, {})


def test_every_bad_file_of_a_folder_is_listed(ward: Ward) -> None:
    (ward.folder / "all").mkdir()
    for name in ("b", "d"):
        write(ward.folder / "all", f"{name}.parquet")
    ward.write("all/a.parquet", b"PAR1 nothing PAR1")
    ward.write("all/c.parquet", b"")

    found = ward.check({**SOURCE, "path": "all"}, {})

    assert dict(found.facts)["records"].startswith("8 can be used")
    assert [line.split(": ")[0].rsplit("/")[-1] for line in found.problems] == [
        "a.parquet",
        "c.parquet",
    ]


def test_a_header_that_promises_too_much_is_refused_before_it_is_read(ward: Ward) -> None:
    rows = 40_000_000
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int8)), ["f"])
    pq.write_table(pa.table({"sex": column}), ward.folder / "t.parquet", compression="zstd")

    with pytest.raises(DataError, match=f"promises {rows} rows"):
        ward.read(SOURCE, {})


def test_sequences_may_stand_in_parquet(ward: Ward) -> None:
    write(ward.folder, dna=["ACGT", "acgn", "T", "TTTTTTTT"])

    raw = ward.read(SOURCE, {"data": {**DNA, "label": "diagnosis"}})

    assert raw.whole[:2, :5].tolist() == [[2, 3, 4, 5, 0], [2, 3, 4, 1, 0]]
