"""JSON Lines: texts, tables and sequences, a record a line."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest

from fedward.study.errors import DataError
from tests.client.data.conftest import TEXT, Ward

SOURCE: dict[str, Any] = {"format": "jsonl", "path": "t.jsonl", "patient": "who"}
NOTES = {"data": {**TEXT, "vocabulary": ["the", "heart", "is", "well", "."]}}


def lines(*records: dict[str, object]) -> str:
    return "".join(json.dumps({"who": "a", "ill": 0, **record}) + "\n" for record in records)


def test_texts_become_tokens(ward: Ward) -> None:
    ward.write(
        "t.jsonl", lines({"note": "The heart is well."}, {"note": "Is\nit?\u2028", "ill": 1})
    )

    raw = ward.read(SOURCE, NOTES)

    assert raw.whole.dtype == np.int64
    assert raw.whole.tolist() == [[2, 3, 4, 5, 6, 0], [4, 1, 1, 0, 0, 0]]
    assert raw.whole_labels.tolist() == [0, 1]


def test_packed_lines_are_the_same(ward: Ward) -> None:
    text = lines({"note": "the heart"}, {"note": "is well"})
    ward.write("t.jsonl", text)
    ward.write("t.jsonl.gz", gzip.compress(text.encode()))

    one, other = ward.read(SOURCE, NOTES), ward.read({**SOURCE, "path": "t.jsonl.gz"}, NOTES)

    assert one.whole.tolist() == other.whole.tolist()


def test_a_bomb_is_refused(ward: Ward) -> None:
    ward.write("t.jsonl.gz", gzip.compress(b" " * 2**25))

    with pytest.raises(DataError, match="unpacks to more than"):
        ward.read({**SOURCE, "path": "t.jsonl.gz"}, NOTES)


def test_tables_may_be_lines(ward: Ward) -> None:
    rows = [{"age": 65, "sex": "f", "diagnosis": False}, {"age": 4.5e1, "sex": "m", "diagnosis": 1}]
    ward.write("t.jsonl", "\n".join(map(json.dumps, rows)))
    classes = {"data.class_values": [[0, "false"], [1, "true"]]}

    raw = ward.read({**SOURCE, "patient": "record"}, classes)

    assert raw.whole.tolist() == [[1, 1, 0], [-1, 0, 1]]
    assert raw.whole_labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[1]", "no JSON object"),
        ('"text"', "no JSON object"),
        ('{"note": "a", "note": "b"}', "a key twice"),
        ('{"note": ["a"]}', "key 'note' has neither text nor a number"),
        ('{"note": {"a": 1}}', "key 'note'"),
        ('{"note": "\\ud800"}', "half of a sign"),
        ('{"note": NaN}', "NaN"),
        ('{"note": ' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 100_000, "nested too deeply"),
        ('{"note": "", "who": "b", "ill": 0}', "column 'note': the value is missing"),
        ('{"note": null, "who": "b", "ill": 0}', "column 'note': the value is missing"),
        ('{"who": "b", "ill": 0}', "column 'note': the value is missing"),
    ],
)
def test_a_bad_line_is_named_and_told_once(line: str, says: str, ward: Ward) -> None:
    good = lines(*[{"note": f"the heart {n}", "who": n} for n in range(20)])
    ward.write("t.jsonl", f"{good}{line}\n{good.replace('heart', 'is')}")

    with pytest.raises(DataError, match=rf"(line|row) 21.*{says}|(line|row) 21: .*{says}"):
        ward.read(SOURCE, NOTES)
    found = ward.check(SOURCE, NOTES)
    assert len([line for line in found.problems if "21" in line]) == 1
    assert dict(found.facts)["records"].startswith("40 can be used, 1 cannot")
