"""A study whose evaluation has noise: its key, its digest, and whom it judges on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study

ValuesWith = Callable[[Mapping[str, object]], dict[str, Any]]
StudyWith = Callable[[Mapping[str, object]], Study]

LOCAL: dict[str, Any] = {"mode": "local", "epsilon": 1.0, "delta": 1e-5, "sampling_rate": 0.1}
KEY = "evaluation_noise_multiplier"


def test_there_is_none_if_nothing_is_said_and_none_without_privacy(study_with: StudyWith) -> None:
    assert study_with({"privacy": LOCAL}).evaluation_noise is None
    assert study_with({}).evaluation_noise is None
    assert study_with({"privacy": LOCAL | {KEY: 2.5}}).evaluation_noise == 2.5


@pytest.mark.parametrize(
    "privacy",
    [
        {"mode": "off", KEY: 1.0},
        *({**LOCAL, KEY: odd} for odd in (0, 0.0, -1.0, 1.1e6, float("nan"), "1", True)),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused_by_its_name(
    privacy: dict[str, Any], values_with: ValuesWith
) -> None:
    with pytest.raises(StudyError) as caught:
        parse_study(values_with({"privacy": privacy}))

    assert KEY in caught.value.key


def test_a_key_that_is_not_used_leaves_the_digest_as_it_was(study_with: StudyWith) -> None:
    assert b"evaluation" not in study_with({"privacy": LOCAL}).canonical()


def test_it_is_part_of_the_digest(study_with: StudyWith) -> None:
    terms = [LOCAL, LOCAL | {KEY: 2.0}, LOCAL | {KEY: 3.0}]

    assert len({study_with({"privacy": privacy}).digest() for privacy in terms}) == 3


def test_the_final_model_is_judged_on_validation_where_there_is_one(study_with: StudyWith) -> None:
    none = {"by": "hash", "train": 0.7, "validation": 0.0, "test": 0.3}

    assert study_with({}).judged_parts == ("validation", "test")
    assert study_with({"data.parts": none}).judged_parts == ("test",)
