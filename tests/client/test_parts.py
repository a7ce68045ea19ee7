"""Division into parts: no patient on two sides, nobody lost, and scikit-learn's own counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.parts import assign, divide
from fedward.client.data.reading import read_parts
from fedward.client.data.records import RawRecords, numbered
from fedward.client.hospital import HospitalFile
from fedward.study.errors import DataError
from fedward.study.parts import GivenParts, HashedParts, PartsRule, StratifiedParts
from fedward.study.study import read_study
from tests.conftest import StudyWith

ROOT = Path(__file__).resolve().parents[2]
HEART = ROOT.parent / "shared" / "data" / "uci_heart_disease"


def raw(patients: list[int], labels: list[int], parts: list[str] | None = None) -> RawRecords:
    count = len(patients)
    return RawRecords(
        inputs=np.arange(count, dtype=np.float32)[:, None],
        labels=np.array(labels, dtype=np.int64),
        patients=np.array(patients, dtype=np.int64),
        names=np.array(patients, dtype=str),
        rows=np.arange(count),
        parts=None if parts is None else np.array(parts),
    )


def sizes(found: Mapping[Any, Any]) -> tuple[int, int, int]:
    return len(found["train"]), len(found["validation"]), len(found["test"])


def shares(train: float, validation: float) -> StratifiedParts:
    return StratifiedParts(
        train=train, validation=validation, test=round(1 - train - validation, 6), seed=0
    )


@given(
    records=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=80),
    train=st.sampled_from([0.1, 0.3, 0.5, 0.66, 0.8]),
    validation=st.sampled_from([0.0, 0.05, 0.1, 0.19]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_patient_is_on_two_sides_and_no_record_is_lost(
    records: list[tuple[int, int]], train: float, validation: float, seed: int
) -> None:
    patients, labels = [p for p, _ in records], [label for _, label in records]
    rule = shares(train, validation).model_copy(update={"seed": seed})

    try:
        found = divide(raw(patients, labels), rule, where="here")
    except DataError:
        assert len(set(patients)) < 3
        return

    sides = [set(part.patients.tolist()) for part in found.values()]
    assert sum(map(len, sides)) == len(set(patients)) == len(set().union(*sides))
    everybody = np.concatenate([part.whole[:, 0].numpy() for part in found.values()])
    assert sorted(everybody.tolist()) == list(range(len(records)))
    assert len(found["train"]) > 0
    assert len(found["test"]) > 0
    for part in found.values():
        for value, label, patient in zip(part.whole, part.whole_labels, part.patients, strict=True):
            assert (labels[int(value)], patients[int(value)]) == (label, patient)


@pytest.mark.parametrize(
    ("rule", "count", "expected"),
    [
        (StratifiedParts(), 10, (7, 1, 2)),
        (StratifiedParts(), 100, (70, 10, 20)),
        (StratifiedParts(), 1000, (700, 100, 200)),
        (shares(0.6, 0.2), 50, (30, 10, 10)),
        (shares(0.8, 0.0), 50, (40, 0, 10)),
        (shares(0.66, 0.0), 303, (199, 0, 104)),
    ],
)
def test_parts_are_as_large_as_their_shares(
    rule: StratifiedParts, count: int, expected: tuple[int, int, int]
) -> None:
    found = divide(raw(list(range(count)), [k % 2 for k in range(count)]), rule, where="here")

    assert sizes(found) == expected


def test_classes_keep_their_shares() -> None:
    found = divide(
        raw(list(range(200)), [int(k < 40) for k in range(200)]), StratifiedParts(), where="here"
    )

    assert [int(part.whole_labels.sum()) for part in found.values()] == [28, 4, 8]


def test_the_seed_decides_the_division() -> None:
    records = raw(list(range(60)), [k % 2 for k in range(60)])
    one, again, other = (
        divide(records, StratifiedParts(seed=seed), where="here")["test"].patients.tolist()
        for seed in (1, 1, 2)
    )

    assert one == again
    assert sorted(one) != sorted(other)


# --- By name --------------------------------------------------------------------------------------

WARD = [f"patient {number}" for number in range(60)]


def part_of_each(records: RawRecords, rule: PartsRule) -> dict[str, str]:
    """The part of each patient, by name."""
    assigned = assign(records, rule, where="here")
    return dict(zip(records.names.tolist(), assigned.tolist(), strict=True))


def named(names: list[str], labels: list[int]) -> RawRecords:
    numbers = numbered(np.array(names)).tolist()
    return replace(raw(numbers, labels), names=np.array(names))


@given(
    there=st.sets(st.sampled_from(WARD), min_size=1),
    labels=st.lists(st.integers(0, 1), min_size=60, max_size=60),
    seed=st.integers(0, 2**32 - 1),
)
def test_by_name_who_else_is_there_and_how_ill_changes_nobodys_part(
    there: set[str], labels: list[int], seed: int
) -> None:
    """In any order, with any labels: each is where it is with everybody there."""
    rule = HashedParts(seed=seed)
    everybody = part_of_each(named(WARD, [0] * 60), rule)

    some = part_of_each(named(sorted(there), labels[: len(there)]), rule)

    assert some == {name: everybody[name] for name in there}


def test_at_random_one_patient_more_moves_others() -> None:
    """Which is why no private study may divide so."""
    labels = [number % 2 for number in range(60)]
    fewer = part_of_each(named(WARD[:-1], labels[:-1]), StratifiedParts())

    everybody = part_of_each(named(WARD, labels), StratifiedParts())

    assert sum(everybody[name] != fewer[name] for name in fewer) > 0


@pytest.mark.parametrize("shares", [(0.7, 0.1, 0.2), (0.34, 0.0, 0.66), (0.1, 0.8, 0.1)])
def test_by_name_shares_are_kept_on_average(shares: tuple[float, float, float]) -> None:
    count = 20_000
    rule = HashedParts(train=shares[0], validation=shares[1], test=shares[2])
    names = np.arange(count).astype(str)
    records = replace(raw(list(range(count)), [0] * count), names=names)

    found = np.array(sizes(divide(records, rule, where="here"))) / count

    assert found == pytest.approx(np.array(shares), abs=0.015)
    assert (found[1] == 0) == (shares[1] == 0)


def test_by_name_the_seed_decides() -> None:
    one, other = (
        list(part_of_each(named(WARD, [0] * 60), HashedParts(seed=seed)).values())
        for seed in (0, 1)
    )

    assert 10 < sum(a != b for a, b in zip(one, other, strict=True)) < 45


def test_the_parts_of_known_names_are_known() -> None:
    """If this fails, patients who were trained on become those who judge."""
    found = part_of_each(named(WARD[:8], [0] * 8), HashedParts(seed=3))

    assert [part[:2] for part in found.values()] == ["tr", "tr", "tr", "te", "va", "tr", "va", "tr"]


def test_by_name_a_patients_records_stay_together() -> None:
    names = [name for name in WARD for _ in range(3)]

    found = divide(named(names, [0, 1, 0] * 60), HashedParts(), where="here")

    sides = [set(part.patients.tolist()) for part in found.values()]
    assert sum(map(len, sides)) == 60
    assert sum(map(len, found.values())) == 180


def test_a_patient_who_leaves_a_hospitals_table_moves_nobody(
    tmp_path: Path, study_with: StudyWith
) -> None:
    lines = [f"{name},{20 + n},f,{n % 2}" for n, name in enumerate(WARD)]
    study, found = study_with({}), []
    for kept in (lines, lines[:17] + lines[18:]):
        table = tmp_path / "t.csv"
        table.write_text("who,age,sex,diagnosis\n" + "\n".join(kept) + "\n", encoding="utf-8")
        source = {"format": "csv", "path": "t.csv", "patient": "who"}
        hospital = HospitalFile.model_validate({"name": "north", "data": source})
        parts = read_parts(hospital, study, tmp_path)
        found.append({part: set(r.whole[:, 0].tolist()) for part, r in parts.items()})
    everybody, rest = found

    gone = (37 - 55) / 10  # the age of the eighteenth, as the study scales it
    for part, ages in everybody.items():
        assert {round(a, 4) for a in ages} - {gone} == {round(a, 4) for a in rest[part]}


def test_the_digest_of_people_is_of_the_names_of_each_part() -> None:
    one = divide(named(WARD, [0] * 60), HashedParts(), where="here")
    other = divide(named([*WARD[:-1], "Zoe"], [0] * 60), HashedParts(), where="here")

    assert len({part.people for part in one.values()}) == 3
    assert any(one[part].people != other[part].people for part in one)
    assert all(len(part.people) == 32 for part in one.values())


# --- As the file says -----------------------------------------------------------------------------


def test_parts_that_the_file_gives_are_kept() -> None:
    parts = ["train", "test", "train", "validation"]

    found = divide(raw([0, 1, 2, 3], [0, 1, 1, 0], parts), GivenParts(), where="here")

    assert found["train"].patients.tolist() == [0, 2]
    assert found["validation"].patients.tolist() == [3]
    assert found["test"].patients.tolist() == [1]


def test_a_file_that_gives_no_parts_is_an_error() -> None:
    with pytest.raises(DataError, match='do not say; set by = "hash"'):
        divide(raw([0, 1, 2], [0, 1, 1]), GivenParts(), where="here")


@pytest.mark.parametrize("word", ["val", "holdout", "", "Train"])
def test_a_part_that_is_no_part_is_named_and_its_records_not_lost(word: str) -> None:
    parts = ["train", word, "test"]

    with pytest.raises(DataError, match=f"'{word}'"):
        divide(raw([0, 1, 2], [0, 1, 1], parts), GivenParts(), where="here")


def test_a_file_that_has_a_patient_on_two_sides_is_an_error() -> None:
    parts = ["train", "test", "test"]

    with pytest.raises(DataError, match="patient"):
        divide(raw([0, 0, 1], [0, 1, 1], parts), GivenParts(), where="here")


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="no records to train on"):
        divide(raw([0, 1], [0, 1], ["test", "test"]), GivenParts(), where="here")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_patients_are_an_error(count: int) -> None:
    with pytest.raises(DataError, match="here"):
        divide(raw(list(range(count)), [0] * count), StratifiedParts(), where="here")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b", "a", "b", "c"], [0, 1, 0, 2]),
        ([9, 9, 3], [0, 0, 1]),
        (["x"], [0]),
        ([], []),
    ],
)
def test_patients_are_numbered_as_they_appear(names: list[object], expected: list[int]) -> None:
    assert numbered(np.array(names)).tolist() == expected


@pytest.mark.skipif(not HEART.is_dir(), reason="the UCI heart disease data is not on this machine")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cleveland", (199, 0, 104)),
        ("hungarian", (172, 0, 89)),
        ("switzerland", (30, 0, 16)),
        ("va", (85, 0, 45)),
    ],
)
def test_the_heart_data_is_divided_as_in_flamby(name: str, expected: tuple[int, int, int]) -> None:
    study = read_study(ROOT / "examples" / "heart-disease.toml")
    values = {
        "name": name,
        "data": {**study.simulation.source, "path": f"processed.{name}.data"},
    }
    hospital = HospitalFile.model_validate(values, strict=False)

    assert sizes(read_parts(hospital, study, HEART)) == expected
