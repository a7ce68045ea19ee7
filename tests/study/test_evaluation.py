"""The table [evaluation]: what it may say, what it is called, and whose digest it changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedward.study.errors import StudyError
from fedward.study.evaluation import MOST_CELLS, Cell, Evaluation, Subgroup
from fedward.study.study import Study, parse_study
from tests.study.test_digest import PINNED

ValuesWith = Callable[[Mapping[str, object]], dict[str, Any]]
StudyWith = Callable[[Mapping[str, object]], Study]

SEX = {"column": "sex", "values": ["f", "m"]}
AGE = {"column": "age", "edges": [40, 65]}
LOCAL: dict[str, Any] = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}


def test_cells_are_named_for_people_subgroup_by_subgroup(study_with: StudyWith) -> None:
    table = study_with({"evaluation": {"subgroups": {"sex": SEX, "age": AGE}}}).evaluation

    assert table is not None
    assert table.cells == (
        Cell("age", "below 40"),
        Cell("age", "40 to below 65"),
        Cell("age", "65 or more"),
        Cell("sex", "f"),
        Cell("sex", "m"),
    )
    assert Subgroup(column="age", edges=(50,)).names == ("below 50", "50 or more")
    assert Evaluation().cells == ()


def test_cells_of_one_column_that_could_be_subtracted_are_refused(values_with: ValuesWith) -> None:
    """Below 66 less below 65 are those of 65, and no cell of theirs is small."""
    groups = {
        "old": {"column": "age", "edges": [65]},
        "older": {"column": "age", "edges": [66]},
        "sex": SEX,
    }
    with pytest.raises(StudyError, match=r"one subgroup for each column.*'age'") as caught:
        parse_study(values_with({"evaluation": {"subgroups": groups}}))

    assert caught.value.key == "evaluation"
    assert "\n" not in caught.value.line()
    del groups["older"]
    parse_study(values_with({"evaluation": {"subgroups": groups}}))


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"subgroups": {"sex": {"column": "sex"}}}, "subgroups.sex"),
        ({"subgroups": {"sex": {**SEX, "edges": [1]}}}, "subgroups.sex"),
        ({"subgroups": {"sex": {"column": "sex", "values": []}}}, "subgroups.sex.values"),
        ({"subgroups": {"sex": {"column": "sex", "values": [1, "1.0"]}}}, "subgroups.sex"),
        ({"subgroups": {"age": {"column": "age", "edges": [65, 40]}}}, "subgroups.age"),
        ({"subgroups": {"age": {"column": "age", "edges": [40, 40]}}}, "subgroups.age"),
        ({"subgroups": {"age": {"column": "", "edges": [40]}}}, "subgroups.age.column"),
        ({"subgroups": {"age\n": AGE}}, "subgroups.age"),
        ({"subgroups": {"n": {"column": "n", "edges": list(range(MOST_CELLS))}}}, "evaluation"),
        ({"replicates": 5}, "evaluation"),
        ({"replicates": 1001}, "replicates"),
        ({"replicates": 200.5}, "replicates"),
        ({"fewest": 0}, "fewest"),
        ({"replicate": 10}, "replicate"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_by_its_key(
    table: dict[str, Any], key: str, values_with: ValuesWith
) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(values_with({"evaluation": table}))

    assert key in caught.value.key
    assert "\n" not in caught.value.line()


def test_a_study_without_the_table_has_the_digest_that_it_had_before(
    study_with: StudyWith,
) -> None:
    assert "evaluation" not in study_with({}).contract()
    assert study_with({}).digest() == PINNED


def test_the_table_is_part_of_the_digest_and_its_order_is_not(study_with: StudyWith) -> None:
    tables: list[dict[str, Any]] = [
        {},
        {"replicates": 100},
        {"fewest": 5},
        {"subgroups": {"sex": SEX}},
        {"subgroups": {"sex": {**SEX, "values": ["m", "f"]}}},
        {"subgroups": {"sex": SEX, "age": AGE}},
    ]
    digests = [study_with({"evaluation": table}).digest() for table in tables]

    assert len({*digests, study_with({}).digest()}) == len(tables) + 1
    other = {"subgroups": {"age": {**AGE, "edges": [40.0, 65.0]}, "sex": SEX}}
    turned = study_with({"evaluation": other})
    assert turned.digest() == digests[-1]
    assert turned.evaluation is not None
    assert turned.evaluation.ordered[0][0] == "age"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"privacy": {**LOCAL, "evaluation_noise_multiplier": 2.0}}, "without the noise"),
        ({"privacy": LOCAL, "aggregation": {"secure": False}}, "secure"),
    ],
    ids=["noised", "in the clear"],
)
def test_what_would_leave_for_free_is_refused(
    changes: dict[str, Any], words: str, values_with: ValuesWith
) -> None:
    parse_study(values_with(changes))
    with pytest.raises(StudyError, match=words):
        parse_study(values_with({**changes, "evaluation": {}}))
