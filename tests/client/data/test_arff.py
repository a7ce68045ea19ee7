"""ARFF: values as they are written, and every line that is no ARFF by its number."""

from __future__ import annotations

from typing import Any

import pytest

from fedward.study.errors import DataError
from tests.client.data.conftest import Ward

SOURCE: dict[str, Any] = {"format": "arff", "path": "t.arff", "patient": "record"}
HEAD = """% people
@RELATION 'some people'
@attribute age REAL
@attribute 'sex' { f, m, 'no one', "x,y" }

@Attribute diagnosis {0,1}
@DATA
"""


def read(ward: Ward, text: str, **changes: object) -> list[list[float]]:
    ward.write("t.arff", text)
    found: list[list[float]] = ward.read(SOURCE, changes).whole.tolist()
    return found


def test_values_are_read_in_every_way_of_writing(ward: Ward) -> None:
    rows = "65,f,0\n 45 ,\tm , 1\n% no row\n\n'55','f',\"0\"\n\"6\\0\",'m','1'"

    assert read(ward, HEAD + rows) == [[1, 1, 0], [-1, 0, 1], [0, 1, 0], [0.5, 0, 1]]


def test_quoted_commas_and_spaces_belong_to_the_value(ward: Ward) -> None:
    sexes = {"data.features.sex": {"categories": ["x,y", "no one"]}}

    assert read(ward, HEAD + "65,'x,y',0\n55,\"no one\",1\n", **sexes) == [[1, 1, 0], [0, 0, 1]]


def test_a_question_mark_is_missing_unless_it_is_quoted(ward: Ward) -> None:
    with pytest.raises(DataError, match="row 2, column 'sex': the value is missing"):
        read(ward, HEAD + "65,f,0\n65,?,0\n")
    quoted = HEAD.replace("'no one'", "'?'") + "65,f,0\n65,'?',0\n"
    marked = {"data.features.sex": {"categories": ["f", "?"]}}
    assert read(ward, quoted, **marked)[1] == [1, 0, 1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("65,f", "line 8: 2 values, for 3 attributes"),
        ("65,f,0,1", "line 8: 4 values"),
        ("65,q,0", "line 8: 'q' is no value of attribute 'sex'"),
        ("65,'f,0", "line 8: a quotation mark"),
        ("65,'f'x,0", "line 8: a quotation mark"),
        ("{0 65, 2 0}", "line 8: a sparse row"),
        ("old,f,0", "row 1, column 'age': 'old'"),
    ],
)
def test_a_bad_line_is_named(row: str, says: str, ward: Ward) -> None:
    with pytest.raises(DataError, match=says):
        read(ward, HEAD + row + "\n")


@pytest.mark.parametrize(
    ("head", "says"),
    [
        ("", "no @data"),
        ("@relation x\n@data\n65\n", "line 2"),
        ("@relation x\n@attribute age\n@data\n", "line 2.*no type"),
        ("@relation x\n@attribute age relational\n@data\n", "line 2.*no type"),
        ("@relation x\n@attribute {a} real\n@data\n", "line 2"),
        ("age,sex\n1,2\n", "line 1"),
        ("@attribute age real\n@attribute age real\n@data\n1,2\n", "two columns 'age'"),
    ],
)
def test_a_head_that_is_none_is_refused(head: str, says: str, ward: Ward) -> None:
    with pytest.raises(DataError, match=says):
        read(ward, head)


def test_every_bad_line_is_told_by_the_check(ward: Ward) -> None:
    rows = [f"{40 + n},{'fm'[n % 2]},{n % 2}" for n in range(30)]
    rows[3], rows[7] = "1,2", "old,f,0"
    ward.write("t.arff", HEAD + "\n".join(rows))

    found = ward.check(SOURCE, {})

    assert dict(found.facts)["records"].startswith("28 can be used, 2 cannot")
    assert ["line 11" in found.problems[0], "row 8" in found.problems[1]] == [True, True]
    assert len(found.problems) == 2
