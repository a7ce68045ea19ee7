"""Records with the same inputs: seen by the check, and left out only where the study says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedward.study.errors import StudyError
from tests.client.conftest import PRIVATE
from tests.client.data.conftest import StudyWith, Ward

CSV: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "record"}
TWICE = "age,sex,diagnosis\n65,f,0\n45,m,1\n65.0,f,1\n55,f,0\n45,m,1\n65,f,0\n"


def test_all_but_the_first_are_left_out_counted_and_named(ward: Ward) -> None:
    ward.write("t.csv", TWICE)

    raw = ward.read(CSV, {"data.duplicates": "drop"})

    assert raw.rows.tolist() == [0, 1, 3]
    assert raw.whole_labels.tolist() == [0, 1, 0]
    assert raw.dropped == 3
    assert ("left out", "3 repeat an earlier record: rows 3, 5, 6") in raw.facts
    assert len(ward.read(CSV, {})) == 6


def test_rows_of_a_pretended_hospital_are_counted_in_the_whole_file(ward: Ward) -> None:
    ward.write("t.csv", TWICE)
    np.save(ward.folder / "rows.npy", np.array([1, 5]))

    raw = ward.read({**CSV, "rows": "rows.npy"}, {"data.duplicates": "drop"})

    assert raw.rows.tolist() == [1]


def test_no_private_study_leaves_them_out(study_with: StudyWith) -> None:
    with pytest.raises(StudyError, match=r"data\.duplicates.*private"):
        study_with({"data.duplicates": "drop", "privacy": PRIVATE})


def test_the_check_names_those_that_are_on_both_sides(ward: Ward) -> None:
    rows = "".join(f"{20 + n},f,{n % 2},train\n" for n in range(20))
    ward.write("t.csv", f"age,sex,diagnosis,part\n{rows}25,f,1,test\n99,f,0,test\n30,f,0,train\n")

    told = ward.check(CSV, {"data.parts": {"by": "file"}}).facts

    assert (
        "look at",
        "1 records for validation or test have the inputs of a training record: row 21",
    ) in told
