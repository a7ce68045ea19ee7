"""What a hospital's staff are told of their data: every fault by name, and true counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedward.client.checking import Found, check
from fedward.client.hospital import HospitalFile
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.study import Study
from tests.client.conftest import PRIVATE, House, StudyWith

HEAD = "patient,age,sex,diagnosis\n"
NAMED: dict[str, Any] = {"format": "csv", "path": "t.csv", "patient": "patient"}


def checked(house: House, study: Study, **tables: object) -> Found:
    before = _files(house)
    values = {"name": "north", "device": "cpu", "data": NAMED, **tables}
    found = check(HospitalFile.model_validate(values), house.folder, study)
    assert _files(house) == before  # nothing is made, charged or approved
    return found


def _files(house: House) -> list[Path]:
    """All files but decoded records, which are kept for the training."""
    cache = house.folder / "state" / "cache"
    return sorted(f for f in house.folder.rglob("*") if f.is_file() and f.parent != cache)


def facts(found: Found) -> dict[str, str]:
    return dict(found.facts)


def people(house: House, sizes: list[int], *, bad: Mapping[int, str] | None = None) -> None:
    """A table of patients with so many rows each; some rows are another text."""
    rows = [
        f"p{number},{40 + number},{'fm'[number % 2]},{number % 2}"
        for number, size in enumerate(sizes)
        for _ in range(size)
    ]
    for place, text in (bad or {}).items():
        rows[place] = text
    house.write(HEAD + "\n".join(rows) + "\n")


def test_records_patients_parts_and_classes_are_counted(house: House, study: Study) -> None:
    sizes = [1] * 20 + [2] * 10 + [4] * 5 + [30]
    people(house, sizes)

    found = checked(house, study)

    told = facts(found)
    assert found.problems == []
    assert told["records"].startswith("90 can be used, 0 cannot, 0 left out")
    assert told["patients"] == "36; the one with most records has 30"
    bars = [" ".join(text.split()[:-1]) for word, text in found.facts if word == ""]
    assert bars == [
        "1 records: 20 patients",
        "2 records: 10 patients",
        "3 to 5 records: 5 patients",
        "6 to 10 records: 0",
        "11 to 20 records: 0",
        "21 to 30 records: 1 patients",
    ]
    parts = [told[part].split(":")[0].split() for part in ("train", "validation", "test")]
    assert sum(int(words[0]) for words in parts) == 90
    assert sum(int(words[3]) for words in parts) == 36
    assert "benign" in told["train"]
    assert "malignant" in told["train"]
    assert told["trains on"] == "cpu, in float32"


def test_every_bad_row_is_named_and_left_out(house: House, study: Study) -> None:
    bad = {2: "p2,,m,0", 5: "p5,1e30,f,1", 7: "p7,50,x,1", 9: "p9,50,f,maybe", 11: "p11,nan,m,1"}
    people(house, [1] * 40, bad=bad)

    found = checked(house, study)

    assert facts(found)["records"].startswith("35 can be used, 5 cannot, 0 left out")
    told = "\n".join(found.problems)
    for words in (
        "row 3, column 'age': the value is missing",
        "row 6, column 'age': '1e30'",
        "row 8, column 'sex': 'x' is no category",
        "label 'maybe' of record 10",
        "row 12, column 'age': the value is missing ('nan'",
    ):
        assert words in told
    assert len(found.problems) == 5


def test_rows_that_the_study_drops_are_counted(house: House, plain_study: StudyWith) -> None:
    people(house, [1] * 40, bad={2: "p2,,m,0", 7: "p7,50,x,1"})

    found = checked(house, plain_study({"data.missing": "drop"}))

    assert facts(found)["records"].startswith("38 can be used, 1 cannot, 1 left out")
    assert len(found.problems) == 1


def test_a_value_far_off_is_worth_a_look_and_no_problem(house: House, study: Study) -> None:
    people(house, [1] * 40, bad={4: "p4,5000,m,0"})

    found = checked(house, study)

    assert found.problems == []
    assert "column 'age'" in facts(found)["look at"]
    assert "row 5" in facts(found)["look at"]


def test_a_file_that_is_not_there_is_one_problem(house: House, study: Study) -> None:
    found = checked(house, study, data={**NAMED, "path": "gone.csv"})

    assert len(found.problems) == 1
    assert "gone.csv: no such file" in found.problems[0]
    assert "train" not in facts(found)


def test_every_bad_image_is_named(house: House, plain_study: StudyWith) -> None:
    study = plain_study(
        {
            "data": {"kind": "images", "shape": [1, 4, 4], "class_values": [["no"], ["yes"]]},
            "model": {"name": "small_cnn", "channels": [2]},
        }
    )
    for number in range(30):
        folder = house.folder / "scans" / ("no", "yes")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((4, 4), 8 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    (house.folder / "scans" / "yes" / "99.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((5, 4), dtype=np.uint8)).save(house.folder / "scans/no/98.png")
    (house.folder / "scans" / "perhaps").mkdir()
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(house.folder / "scans/perhaps/97.png")

    found = checked(house, study, data={"format": "folder", "path": "scans", "patient": "record"})

    assert facts(found)["records"].startswith("30 can be used, 3 cannot")
    told = "\n".join(found.problems)
    assert "yes/99.png: cannot be read as an image" in told
    assert "no/98.png: is 4 wide and 5 high" in told
    assert "label 'perhaps' of record" in told
    assert facts(found)["pixels"].startswith("pixels from 0 to 0.9")


def test_of_a_pretended_hospital_only_its_own_rows_count(house: House, study: Study) -> None:
    people(house, [1] * 60, bad={2: "p2,,m,0", 50: "p50,,m,0"})
    np.save(house.folder / "rows.npy", np.arange(40))

    found = checked(house, study, data={**NAMED, "rows": "rows.npy"})

    assert facts(found)["records"].startswith("39 can be used, 1 cannot")
    assert len(found.problems) == 1


# --- The machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"device": "cuda:97"}, "no device cuda:97"),
        ({"data": {"format": "csv", "path": "t.csv"}}, "does not say whose its records are"),
        ({"limits": {}}, "none is declared"),
    ],
)
def test_what_would_be_refused_is_a_problem(
    tables: dict[str, Any], words: str, house: House, private: Study
) -> None:
    people(house, [1] * 60)

    found = checked(house, private, **{"limits": {"declared_patients": 42}, **tables})

    assert len(found.problems) == 1
    assert words in found.problems[0]


# --- Privacy --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "words"),
    [(45, "near the true number"), (10, "count for more"), (400, "made smaller")],
)
def test_the_declared_number_is_held_against_the_true_one(
    declared: int, words: str, house: House, private: Study
) -> None:
    people(house, [2] * 60)

    found = checked(house, private, limits={"declared_patients": declared})

    told = facts(found)
    true = told["train"].split()[3]
    assert words in told["declared"]
    assert f"the true number, {true}" in told["declared"]
    assert "1e-05 fits" in told["delta"]
    assert found.problems == []


@pytest.mark.parametrize(("declared", "words"), [(200, "1 / 200 declared"), (20, "though it fits")])
def test_a_delta_that_gives_a_patient_away_is_a_problem(
    declared: int, words: str, house: House, plain_study: StudyWith
) -> None:
    people(house, [1] * 80)
    study = plain_study({"privacy": {**PRIVATE, "delta": 0.03}})

    found = checked(house, study, limits={"declared_patients": declared})

    assert len(found.problems) == 1
    assert words in found.problems[0]


def test_the_budget_is_held_against_the_whole_study(house: House, private: Study) -> None:
    people(house, [1] * 60)
    limits = {"declared_patients": 42, "delta": 1e-5}

    free = checked(house, private, limits=limits)
    wide = checked(house, private, limits={**limits, "epsilon": 50.0})
    tight = checked(house, private, limits={**limits, "epsilon": 5.0})

    assert free.problems == wide.problems == []
    assert facts(free)["budget"].endswith("no limit is set")
    assert facts(wide)["budget"].endswith("50 is allowed")
    assert len(tight.problems) == 1
    assert "of its 3 rounds would be answered" in tight.problems[0]


def test_what_is_measured_and_judged_with_noise_is_part_of_the_whole_study(
    house: House, plain_study: StudyWith
) -> None:
    people(house, [1] * 60)
    limits = {"declared_patients": 42, "delta": 1e-5}
    noised = plain_study({"privacy": {**PRIVATE, "evaluation_noise_multiplier": 2.0}})
    rounds = SampledGaussian(1.0, 0.5, 2 * 3)
    whole = epsilon_of([rounds, SampledGaussian(2.0, 1.0, 5)], 1e-5, "rdp")

    wide = checked(house, noised, limits={**limits, "epsilon": 1.001 * whole})
    tight = checked(house, noised, limits={**limits, "epsilon": 0.999 * whole})

    assert wide.problems == []
    assert f"a whole run brings it to {whole:.3f}" in facts(wide)["budget"]
    assert "of its 3 rounds would be answered" in tight.problems[0]


def test_what_is_spent_already_counts(house: House, private: Study) -> None:
    people(house, [1] * 60)
    ledger = Ledger(house.folder / "state" / "ledger.sqlite")
    spent = Charge(
        *("data", "a1" * 32, "run", 1, "0d" * 32, "0d" * 32),
        SampledGaussian(1.0, 0.5, 200),
        1e-5,
        "rdp",
    )
    limits = {"declared_patients": 42, "delta": 1e-5, "epsilon": 25.0}
    assert checked(house, private, limits=limits).problems == []

    ledger.charge(spent, cap=None)
    found = checked(house, private, limits=limits)

    assert not facts(found)["budget"].startswith("0.000 is spent")
    assert "0 of its 3 rounds" in found.problems[0]
