"""What a study may say of federated algorithms and personal models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study

StudyWith = Callable[[Mapping[str, object]], Study]
PRIVATE = {"mode": "local", "noise_multiplier": 1.0, "delta": 1e-5, "sampling_rate": 0.5}
TUNED = {"training.fine_tuning": {"steps": 3, "learning_rate": 0.1}}


def strategy(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"aggregation": {"strategy": name, **more}}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({**strategy("ditto", proximal_lambda=1.0), "privacy": PRIVATE}, "privacy off"),
        ({**TUNED, "privacy": PRIVATE}, "privacy off"),
        ({**TUNED, **strategy("ditto", proximal_lambda=1.0)}, "one personal model"),
        ({**strategy("scaffold"), "training.optimizer": "adam"}, "sgd without momentum"),
        ({**strategy("scaffold"), "training.momentum": 0.9}, "sgd without momentum"),
        (strategy("scaffold", weighting="examples"), "uniform"),
        (strategy("ditto"), "proximal_lambda"),
        (strategy("ditto", proximal_lambda=-1.0), ""),
        (strategy("fedper", head_layers=-1), ""),
        ({"training.fine_tuning": {"steps": 0, "learning_rate": 0.1}}, ""),
    ],
)
def test_what_cannot_be_is_refused(
    change: dict[str, Any], allowed: str, values_with: Callable[..., dict[str, Any]]
) -> None:
    with pytest.raises(StudyError) as error:
        parse_study(values_with(change))
    assert allowed in str(error.value)


@pytest.mark.parametrize("name", ["scaffold", "fedbn", "fedper"])
def test_what_adds_no_look_at_the_records_may_be_private(name: str, study_with: StudyWith) -> None:
    assert study_with({**strategy(name), "privacy": PRIVATE}).judged_models == 1


def test_fine_tuning_is_part_of_what_is_approved_only_where_it_is_asked_for(
    study_with: StudyWith,
) -> None:
    plain, tuned = study_with({}), study_with(TUNED)

    assert b"fine_tuning" not in plain.canonical()
    assert b'"fine_tuning":{"learning_rate":0.1,"steps":3}' in tuned.canonical()
    assert (plain.judged_models, tuned.judged_models) == (1, 2)
    assert (plain.personal, tuned.personal) == (False, True)


def test_real_images_are_not_varied_where_made_ones_are_not(study_with: StudyWith) -> None:
    images: dict[str, Any] = {"kind": "images", "shape": [1, 8, 8], "label": []}
    made = {"task": {"kind": "generation"}, "model": {"name": "gan"}}
    study_with({**made, "data": images})

    with pytest.raises(StudyError, match=r"no data\.augmentation for a generation task"):
        study_with({**made, "data": images | {"augmentation": {"flip": ["width"]}}})
