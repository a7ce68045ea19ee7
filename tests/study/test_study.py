"""The study file: how it is read, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedward.study.errors import DataError, StudyError
from fedward.study.parts import HashedParts
from fedward.study.study import parse_study, read_study
from tests.study.study_tables import IMAGES, LOCAL

Values = dict[str, Any]
ValuesWith = Callable[[Mapping[str, object]], Values]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("data", [{}, IMAGES])
def test_parts_follow_from_names_if_nothing_is_said(data: Values, values_with: ValuesWith) -> None:
    values = values_with({"data": data} if data else {})

    parts = parse_study(values).data.parts

    assert parts == HashedParts(train=0.7, validation=0.1, test=0.2, seed=0)


@pytest.mark.parametrize("by", ["hash", "file"])
def test_a_private_study_divides_by_name_or_as_files_say(by: str, values_with: ValuesWith) -> None:
    parts = parse_study(values_with({"privacy": LOCAL, "data.parts": {"by": by}})).data.parts

    assert parts.by == by


def test_classes_named_by_their_own_numbers_are_fine(values_with: ValuesWith) -> None:
    assert parse_study(values_with({"task.classes": ["0", "1"]})).task.classes == ("0", "1")


def test_the_plain_mean_needs_no_name(values_with: ValuesWith) -> None:
    named = {"strategy": "fedavg", "weighting": "uniform"}

    for unnamed, same in [({}, {"strategy": "fedavg"}), ({"weighting": "uniform"}, named)]:
        study = parse_study(values_with({"aggregation": unnamed}))
        assert study.aggregation.strategy == "fedavg"
        assert study == parse_study(values_with({"aggregation": same}))


# --- Files ----------------------------------------------------------------------------------------


def test_a_study_is_read_from_its_file(tmp_path: Path, values_with: ValuesWith) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(values_with({})), encoding="utf-8")

    assert read_study(path) == parse_study(values_with({}))


def test_an_error_in_a_file_names_the_file(tmp_path: Path, values_with: ValuesWith) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(values_with({"training.rounds": 0})), encoding="utf-8")

    with pytest.raises(StudyError) as caught:
        read_study(path)
    assert caught.value.line() == (
        f"{path}: training.rounds: given 0; allowed: greater than or equal to 1"
    )


@pytest.mark.parametrize("content", [b"[study", b"\xff\xfe", None])
def test_a_file_that_is_no_study_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_study(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.stem)
def test_every_example_is_a_study(path: Path) -> None:
    assert len(read_study(path).digest()) == 64


# --- What follows from a study --------------------------------------------------------------------


def test_all_hospitals_are_asked_and_needed_if_nothing_is_said(values_with: ValuesWith) -> None:
    participation = parse_study(values_with({"participation.hospitals": 5})).participation

    assert (participation.asked, participation.fewest) == (5, 5)


def test_a_round_needs_all_that_were_invited_if_nothing_is_said(values_with: ValuesWith) -> None:
    values = values_with({"participation.invited": 2, "aggregation.secure": False})
    participation = parse_study(values).participation

    assert (participation.asked, participation.fewest) == (2, 2)


def test_the_model_has_one_input_for_each_number_category_and_mark_of_absence(
    values_with: ValuesWith,
) -> None:
    features = {"age": {}, "stage": {"categories": [1, 2, 3]}, "lab": {"absent": 0}}

    assert parse_study(values_with({"data.features": features})).data.input_shape == (1 + 3 + 2,)


@pytest.mark.parametrize("title", ["Grüße aus Köln", "心臓病", "قلب", "a - b"])
def test_every_script_may_stand_in_a_study(title: str, values_with: ValuesWith) -> None:
    assert parse_study(values_with({"study.title": title})).study.title == title
