"""Columns of other tables, the rows that are a hospital's, and values that are filled."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from fedward.client.data.reading import read_parts
from fedward.study.errors import DataError, StudyError
from tests.client.data.conftest import StudyWith, Ward

CSV: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "who"}
ROWS = "who,age,sex\na,65,f\nb,45,m\nc,55,f\nd,60,m\n"
MORE = "who,diagnosis,site,part\nd,1,x,test\na,0,x,train\nb,1,y,train\n"
JOIN = {"join": [{"path": "more.csv", "on": "who", "unmatched": "drop"}]}


@pytest.fixture
def joined(ward: Ward) -> Ward:
    ward.write("t.csv", ROWS)
    ward.write("more.csv", MORE)
    return ward


def test_columns_are_added_by_the_key(joined: Ward) -> None:
    raw = joined.read({**CSV, **JOIN}, {})

    assert raw.names.tolist() == ["a", "b", "d"]
    assert raw.rows.tolist() == [0, 1, 3]
    assert raw.whole_labels.tolist() == [0, 1, 1]
    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "train", "test"]
    assert raw.dropped == 1
    assert ("left out", "1 rows that are not in more.csv: row 3") in raw.facts


@pytest.mark.parametrize("packed", [False, True])
def test_tables_with_tabs_are_known_by_their_names(packed: bool, ward: Ward) -> None:
    end = ".tsv.gz" if packed else ".tsv"
    for name, text in (("t", ROWS), ("more", MORE)):
        content = text.replace(",", "\t").encode()
        ward.write(name + end, gzip.compress(content) if packed else content)
    join = [{"path": f"more{end}", "on": "who", "unmatched": "drop"}]

    raw = ward.read({**CSV, "path": f"t{end}", "join": join}, {})

    assert raw.names.tolist() == ["a", "b", "d"]
    assert raw.whole_labels.tolist() == [0, 1, 1]


def test_what_the_hospital_says_comes_before_the_name(ward: Ward) -> None:
    rows = "who;age;sex;diagnosis\na;65;f;0\nb;45;m;1\n"
    ward.write("t.tsv", rows)

    raw = ward.read({**CSV, "path": "t.tsv", "delimiter": ";"}, {})

    assert raw.names.tolist() == ["a", "b"]


def test_a_row_without_partner_is_refused_and_listed(joined: Ward) -> None:
    source = {**CSV, "join": [{"path": "more.csv", "on": "who"}]}

    with pytest.raises(DataError, match=r"row 3, column 'who': the value is not in more\.csv"):
        joined.read(source, {})
    found = joined.check(source, {})
    assert dict(found.facts)["records"] == "3 can be used, 1 cannot, 0 left out"
    assert "row 3" in found.problems[0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (MORE + "a,1,x,test\n", "row 4, column 'who': the value stood in an earlier row"),
        (MORE.replace("site", "age"), "column 'age' is also in"),
        (MORE.replace("who", "whom"), "more.csv: has no column 'who'"),
    ],
)
def test_tables_that_cannot_be_joined_are_refused(more: str, says: str, joined: Ward) -> None:
    joined.write("more.csv", more)
    with pytest.raises(DataError, match=says):
        joined.read({**CSV, **JOIN}, {})


def test_only_the_rows_of_a_site_are_read_and_only_they_are_judged(joined: Ward) -> None:
    joined.write("t.csv", ROWS.replace("45", "old"))

    raw = joined.read({**CSV, **JOIN, "only": {"site": ["x"]}}, {})

    assert raw.names.tolist() == ["a", "d"]
    assert raw.dropped == 2
    with pytest.raises(DataError, match="row 2, column 'age': 'old'"):
        joined.read({**CSV, **JOIN, "only": {"site": ["x", "y"]}}, {})


def test_columns_called_otherwise_are_found_even_where_the_name_is_taken(ward: Ward) -> None:
    ward.write("t.csv", "who,age,alter,sex,dx,group\na,1,65,f,0,train\nb,2,45,m,1,test\n")
    names = {"columns_are": {"age": "alter", "diagnosis": "dx", "part": "group"}}

    parts = read_parts(
        ward.hospital({**CSV, **names}),
        ward.study_with({"data.parts": {"by": "file"}}),
        ward.folder,
    )

    assert parts["train"].whole[0, 0] == 1
    assert len(parts["test"]) == 1


def test_two_columns_of_one_name_are_refused_where_they_are_wanted(ward: Ward) -> None:
    ward.write("t.csv", "who,age,age,sex,diagnosis\na,65,1,f,0\n")
    with pytest.raises(DataError, match="two columns 'age'"):
        ward.read(CSV, {})
    ward.write("t.csv", "who,age,x,x,sex,diagnosis\na,65,1,2,f,0\n")
    assert len(ward.read(CSV, {})) == 1


# --- Values that are missing ----------------------------------------------------------------------

LACKING = "who,age,sex,diagnosis\na,,f,0\nb,45,?,1\nc,55,f,0\n"


def test_a_missing_value_becomes_what_the_study_says(ward: Ward) -> None:
    ward.write("t.csv", LACKING)
    features = {
        "age": {"center": 55, "scale": 10, "fill": 65.0},
        "sex": {"categories": ["f", "m"], "fill": "m"},
    }

    raw = ward.read(CSV, {"data.features": features})

    assert raw.whole.tolist() == [[1, 1, 0], [-1, 0, 1], [0, 1, 0]]
    assert ("missing", "column 'age': 1 of 3 values; becomes 65.0") in raw.facts
    assert raw.dropped == 0


def test_a_filled_value_may_be_marked(ward: Ward) -> None:
    ward.write("t.csv", LACKING.replace("?", "f"))
    age = {"center": 55, "scale": 10, "absent": -1.0, "fill": -1.0}

    raw = ward.read(CSV, {"data.features.age": age})

    assert raw.whole[:, :2].tolist() == [[0, 1], [-1, 0], [0, 0]]


def test_what_has_no_fill_is_still_refused_or_dropped(ward: Ward) -> None:
    ward.write("t.csv", LACKING)
    age = {"data.features.age.fill": 55.0}

    with pytest.raises(DataError, match="row 2, column 'sex': the value is missing"):
        ward.read(CSV, age)
    raw = ward.read(CSV, {**age, "data.missing": "drop"})
    assert raw.names.tolist() == ["a", "c"]
    assert ("left out", "1 rows lack a value: row 2") in raw.facts


@pytest.mark.parametrize(
    "feature",
    [
        {"fill": "x"},
        {"fill": True},
        {"fill": 1e300},
        {"categories": ["f", "m"], "fill": "x"},
    ],
)
def test_a_fill_that_means_nothing_is_refused(
    feature: dict[str, Any], study_with: StudyWith
) -> None:
    with pytest.raises(StudyError, match="fill"):
        study_with({"data.features.age": feature})


def test_a_fill_is_within_the_bounds_unless_it_is_absent(study_with: StudyWith) -> None:
    age = {"bounds": [0.0, 100.0], "fill": -1.0}
    scaling = {"data.scaling": "measured"}
    with pytest.raises(StudyError, match="within the bounds"):
        study_with({"data.features.age": age, **scaling})
    study_with({"data.features.age": {**age, "absent": -1.0}, **scaling})


def test_values_beyond_the_bounds_are_worth_a_look(ward: Ward) -> None:
    ward.write(
        "t.csv",
        "who,age,sex,diagnosis\n"
        + "".join(f"{n},{4000 if n == 4 else n},f,{n % 2}\n" for n in range(30)),
    )
    age = {"data.features.age": {"bounds": [0.0, 100.0]}, "data.scaling": "measured"}

    told = ward.check(CSV, age).facts

    assert (
        "look at",
        "column 'age': values beyond the study's bounds, 0 to 100: 1, the farthest in row 5; "
        "another unit?",
    ) in told


def test_what_the_new_keys_say_by_default_changes_no_digest(study_with: StudyWith) -> None:
    plain = study_with({}).digest()

    assert study_with({"data.duplicates": "keep"}).digest() == plain
    changed = [
        study_with({"data.duplicates": "drop"}).digest(),
        study_with({"data.features.age.fill": 3.0}).digest(),
    ]
    assert len({plain, *changed}) == 3
    assert b"duplicates" not in study_with({}).canonical()
    assert b"fill" not in study_with({}).canonical()
