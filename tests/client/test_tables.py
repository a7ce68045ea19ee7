"""Tables: real files, read as a study asks, and every fault named by row and column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import BundledSource, CsvSource
from fedward.study.errors import DataError
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
Read = Callable[..., RawRecords]

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "uci_heart_disease"


@pytest.fixture
def read(tmp_path: Path, study_with: StudyWith) -> Read:
    """Reads a table of this text, by the small study with changes."""

    def reading(
        text: str | bytes,
        changes: Mapping[str, object] | None = None,
        **source: Any,  # noqa: ANN401
    ) -> RawRecords:
        content = text.encode() if isinstance(text, str) else text
        (tmp_path / "t.csv").write_bytes(content)
        table = CsvSource(format="csv", path="t.csv", **source)
        return read_all(table, study_with(changes or {}), tmp_path)

    return reading


GOOD = "age,sex,diagnosis\n65,f,benign\n45,m,malignant\n55,f,0\n60,m,1\n"


def test_numbers_are_scaled_and_categories_spread_as_the_study_says(read: Read) -> None:
    raw = read(GOOD)

    assert raw.inputs.dtype == np.float32
    assert raw.whole.tolist() == [[1, 1, 0], [-1, 0, 1], [0, 1, 0], [0.5, 0, 1]]
    assert raw.labels.dtype == np.int64
    assert raw.whole_labels.tolist() == [0, 1, 0, 1]
    assert raw.rows.tolist() == [0, 1, 2, 3]
    assert raw.patients.tolist() == [0, 1, 2, 3]
    assert (raw.parts, raw.dropped) == (None, 0)


@pytest.mark.parametrize(
    "text",
    [
        "diagnosis,note,sex,age\nbenign,x,f,65\nmalignant,y,m,45\n0,z,f,55\n1,,m,60\n",
        "age, sex, diagnosis\n65.0, f, benign\n4.5e1, m, malignant\n+55, f, 0\n60., m, 1\n",
        '"age","sex","diagnosis"\n"65","f","benign"\n45,"m",malignant\n55,f,0.0\n60,m,1.0\n',
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip("\n"),
        "\ufeff" + GOOD,
    ],
    ids=["other order", "other numbers", "quoted", "Windows lines", "no last newline", "byte mark"],
)
def test_the_same_table_written_in_another_way_is_the_same(text: str, read: Read) -> None:
    one, other = read(GOOD), read(text)

    assert np.array_equal(one.whole, other.whole)
    assert np.array_equal(one.whole_labels, other.whole_labels)


def test_a_file_without_header_is_read_by_its_columns(read: Read) -> None:
    raw = read(GOOD.split("\n", 1)[1], columns=("age", "sex", "diagnosis"))

    assert raw.whole[0].tolist() == [1, 1, 0]
    assert len(raw) == 4


def test_another_delimiter_is_read(read: Read) -> None:
    assert len(read(GOOD.replace(",", ";"), delimiter=";")) == 4


def test_a_number_that_means_absent_becomes_zero_and_a_mark(read: Read) -> None:
    raw = read(GOOD, {"data.features.age": {"center": 55, "scale": 10, "absent": 45}})

    assert raw.whole[:2, :2].tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("label", ["1", "1.0", "01", " 1 ", "1e0", "malignant"])
def test_one_class_may_be_written_in_many_ways(label: str, read: Read) -> None:
    raw = read(f"age,sex,diagnosis\n65,f,{label}\n45,m,0\n")

    assert raw.whole_labels.tolist() == [1, 0]


def test_class_values_say_what_a_label_means(read: Read) -> None:
    rows = "".join(f"65,f,{label}\n" for label in ("0", "1", "2.0", "3", "4", "0.0"))

    raw = read(f"age,sex,diagnosis\n{rows}", {"data.class_values": [[0], [1, 2, 3, 4]]})

    assert raw.whole_labels.tolist() == [0, 1, 1, 1, 1, 0]


def test_class_values_take_the_place_of_names(read: Read) -> None:
    with pytest.raises(DataError, match="benign"):
        read(GOOD, {"data.class_values": [[0], [1, 2]]})


@pytest.mark.parametrize("category", ["1", "1.0", "01"])
def test_a_category_that_is_a_number_may_be_written_in_many_ways(category: str, read: Read) -> None:
    raw = read(
        f"age,sex,diagnosis\n65,{category},0\n", {"data.features.sex": {"categories": [1, 2]}}
    )

    assert raw.whole[0, 1:].tolist() == [1, 0]


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (",f,0", ["row 3", "age", "missing"]),
        ("65,,0", ["row 3", "sex", "missing"]),
        ("65,f,", ["row 3", "diagnosis", "missing"]),
        ("?,f,0", ["row 3", "age", "missing"]),
        ("NA,f,0", ["row 3", "age", "missing"]),
        ("nan,f,0", ["row 3", "age", "missing"]),
        ("inf,f,0", ["row 3", "age", "finite"]),
        ("-Infinity,f,0", ["row 3", "age", "finite"]),
        ("1e999,f,0", ["row 3", "age", "finite"]),
        ("old,f,0", ["row 3", "age", "old"]),
        ("6 5,f,0", ["row 3", "age", "6 5"]),
        ("65,x,0", ["row 3", "sex", "category"]),
        ("65,F,0", ["row 3", "sex", "category"]),
        ("65,f,2", ["3", "diagnosis", "'2'"]),
        ("65,f,Benign", ["3", "diagnosis", "'Benign'"]),
        ("65,f,0.5", ["3", "diagnosis", "'0.5'"]),
        ("65,f", ["row 3", "diagnosis"]),
        ("65", ["row 3", "sex"]),
    ],
)
def test_a_bad_value_is_named_by_row_and_column(row: str, says: list[str], read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read(f"age,sex,diagnosis\n65,f,0\n45,m,1\n{row}\n60,m,1\n")

    for part in says:
        assert part in caught.value.line()
    assert "t.csv" in caught.value.where


@pytest.mark.parametrize("value", ["nan", "NaN", "inf"])
def test_no_value_that_is_not_finite_is_read_even_if_nothing_marks_it_missing(
    value: str, read: Read
) -> None:
    with pytest.raises(DataError, match="finite"):
        read(f"age,sex,diagnosis\n{value},f,0\n", missing=())


@pytest.mark.parametrize("value", ["1e39", "-1e300"])
def test_a_number_too_large_for_the_model_is_named(value: str, read: Read) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'age'"):
        read(f"age,sex,diagnosis\n65,f,0\n{value},f,0\n")


def test_rows_that_lack_a_value_are_dropped_and_counted_where_the_study_says_so(
    read: Read,
) -> None:
    raw = read(
        "age,sex,diagnosis,note\n65,f,0,\n,f,0,x\n45,m,1,x\n?,m,1,x\n60,m,,x\n",
        {"data.missing": "drop"},
    )

    assert raw.rows.tolist() == [0, 2]
    assert raw.whole_labels.tolist() == [0, 1]
    assert raw.dropped == 3


def test_a_row_that_ends_early_lacks_its_last_values(read: Read) -> None:
    raw = read("age,sex,diagnosis\n65,f,0\n45\n60,m,1\n", {"data.missing": "drop"})

    assert raw.rows.tolist() == [0, 2]
    assert raw.dropped == 1


def test_a_row_with_too_many_values_is_an_error(read: Read) -> None:
    with pytest.raises(DataError, match="table"):
        read("age,sex,diagnosis\n65,f,0\n45,m,1,7\n")


@pytest.mark.parametrize("columns", [("age", "diagnosis"), ("age", "age", "diagnosis")])
def test_columns_that_are_not_the_file_s_are_an_error(columns: tuple[str, ...], read: Read) -> None:
    with pytest.raises(DataError):
        read(GOOD.split("\n", 1)[1], columns=columns)


def test_a_bad_label_after_a_dropped_row_is_named_by_its_row_in_the_file(read: Read) -> None:
    with pytest.raises(DataError, match="record 3 "):
        read("age,sex,diagnosis\n,f,0\n45,m,1\n60,m,7\n", {"data.missing": "drop"})


@pytest.mark.parametrize("column", ["age", "sex", "diagnosis"])
def test_a_column_that_is_not_there_is_named_with_those_that_are(column: str, read: Read) -> None:
    with pytest.raises(DataError, match=column) as caught:
        read(GOOD.replace(column, "other", 1))
    assert "other" in caught.value.todo


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"PK\x03\x04\x00"])
def test_a_file_that_is_no_table_is_named(content: bytes, read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read(content)
    assert "t.csv" in caught.value.where


def test_a_file_that_is_not_there_is_named(tmp_path: Path, study_with: StudyWith) -> None:
    for path in ("none.csv", "."):
        with pytest.raises(DataError) as caught:
            read_all(CsvSource(format="csv", path=path), study_with({}), tmp_path)
        assert caught.value.where == str(tmp_path / path)


def test_a_table_is_no_answer_to_a_study_of_images(read: Read) -> None:
    with pytest.raises(DataError, match="images"):
        read(GOOD, {"data": {"kind": "images", "shape": [1, 8, 8]}})


# --- Patients, parts, rows ------------------------------------------------------------------------


def test_records_of_one_patient_have_one_number_and_one_name(read: Read) -> None:
    raw = read(
        "who,age,sex,diagnosis\nZoe,65,f,0\nAnn,45,m,1\nZoe,55,f,0\nBob,60,m,1\n", patient="who"
    )

    assert raw.patients.tolist() == [0, 1, 0, 2]
    assert raw.names.tolist() == ["Zoe", "Ann", "Zoe", "Bob"]


def test_a_record_that_is_a_patient_is_called_by_its_place_in_the_file(read: Read) -> None:
    """A row that is left out moves nobody else."""
    raw = read("age,sex,diagnosis\n65,f,0\n?,m,1\n55,f,0\n", {"data.missing": "drop"})

    assert raw.names.tolist() == ["0", "2"]


@pytest.mark.parametrize("row", [",45,m,1", "?,45,m,1"])
def test_a_record_without_a_patient_is_refused(row: str, read: Read) -> None:
    with pytest.raises(DataError, match=r"row 2, column 'who'"):
        read(f"who,age,sex,diagnosis\nZoe,65,f,0\n{row}\n", patient="who")


def test_a_patient_column_that_is_not_there_is_named(read: Read) -> None:
    with pytest.raises(DataError, match="who"):
        read(GOOD, patient="who")


def test_parts_are_read_from_the_file(read: Read) -> None:
    raw = read("age,sex,diagnosis,part\n65,f,0,train\n45,m,1,test\n55,f,0,validation\n")

    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "test", "validation"]


def test_only_the_hospital_s_rows_are_taken(tmp_path: Path, study_with: StudyWith) -> None:
    (tmp_path / "t.csv").write_text(GOOD, encoding="utf-8")
    np.save(tmp_path / "rows.npy", np.array([3, 1]))

    raw = read_all(CsvSource(format="csv", path="t.csv", rows="rows.npy"), study_with({}), tmp_path)

    assert raw.rows.tolist() == [1, 3]
    assert raw.whole_labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    "case", ["none", "text", "archive", "too high", "negative", "text numbers"]
)
def test_row_numbers_that_cannot_be_are_an_error(
    case: str, tmp_path: Path, study_with: StudyWith
) -> None:
    (tmp_path / "t.csv").write_text(GOOD, encoding="utf-8")
    path = tmp_path / "rows.npy"
    if case == "text":
        path.write_text("1, 2", encoding="utf-8")
    elif case == "archive":
        with path.open("wb") as file:
            np.savez(file, rows=np.array([1]))
    elif case != "none":
        numbers: dict[str, list[object]] = {
            "too high": [1, 4],
            "negative": [-1, 1],
            "text numbers": ["a"],
        }
        np.save(path, np.array(numbers[case]))

    with pytest.raises(DataError, match=r"rows\.npy"):
        read_all(CsvSource(format="csv", path="t.csv", rows="rows.npy"), study_with({}), tmp_path)


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path, study_with: StudyWith) -> None:
    source = CsvSource(format="csv", path="t.csv", rows="rows.npy")
    np.save(tmp_path / "rows.npy", np.array([0, 1]))
    found = []
    for text in (GOOD, GOOD.replace("65", "75").replace("45,m", "35,f")):
        (tmp_path / "t.csv").write_text(text, encoding="utf-8")
        found.append(read_all(source, study_with({}), tmp_path).whole[0, 0])

    assert found == [1, 2]


# --- Real data ------------------------------------------------------------------------------------


def test_the_bundled_breast_cancer_data_is_whole(study_with: StudyWith, tmp_path: Path) -> None:
    """Counts of the data's own description: 569 rows, 30 numbers, 212 malignant, 357 benign."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = [name.replace(" ", "_") for name in bunch.feature_names]
    study = study_with({"data.features": {name: {} for name in names}})

    raw = read_all(BundledSource(format="bundled", name="breast-cancer"), study, tmp_path)

    assert raw.inputs.shape == (569, 30)
    assert np.bincount(raw.whole_labels).tolist() == [357, 212]
    assert np.allclose(raw.whole, bunch.data, rtol=1e-6)


@pytest.mark.skipif(not DATA.is_dir(), reason="the UCI heart disease data is not on this machine")
@pytest.mark.parametrize(
    ("name", "records", "ill"),
    [("cleveland", 303, 139), ("hungarian", 261, 98), ("switzerland", 46, 45), ("va", 130, 101)],
)
def test_the_heart_data_has_the_records_of_flamby(
    name: str, records: int, ill: int, study_with: StudyWith
) -> None:
    from fedward.study.study import read_study

    study = read_study(ROOT / "examples" / "heart-disease.toml")
    source = CsvSource.model_validate(
        {
            **study.simulation.source,
            "path": f"processed.{name}.data",
            "columns": tuple(study.simulation.source["columns"]),
            "missing": ("?",),
        }
    )

    raw = read_all(source, study, DATA)

    assert (len(raw), int(raw.whole_labels.sum())) == (records, ill)
