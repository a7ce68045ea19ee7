"""A hospital's own precision: nothing of the study changes, and nearly nothing of the result."""

from __future__ import annotations

import numpy as np
import pytest

from fedward.client.hospital import HospitalFile
from fedward.client.site import Site
from fedward.models.task import task_of
from fedward.study.study import Study
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    House,
    StudyWith,
    judging,
    start_of,
    total_of,
    training,
    vector_from,
)

LONG = {"training.local_epochs": 30, "training.batch_size": 8}


def trained_and_judged(site: Site, study: Study) -> dict[str, float]:
    update = total_of(study, vector_from(site, training(study))).update
    model = (start_of(study) + update).astype(np.float32)
    judged = judging(study, "test", model=model, run="run-2")
    before, after = (
        task_of(study).metrics(total_of(study, vector_from(site, ask), update=False).metrics)
        for ask in (judging(study, "test"), judged)
    )
    assert after["loss"] < before["loss"]
    return after


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
def test_half_precision_learns_what_float32_learns(
    kind: str, house: House, plain_study: StudyWith
) -> None:
    study = plain_study(LONG)
    house.approve(study)

    whole = trained_and_judged(house.site(**SEED), study)
    half = trained_and_judged(house.site(**SEED, training={"precision": kind}), study)

    assert half != whole
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.05)
    assert half["auc"] == pytest.approx(whole["auc"], abs=0.05)


@pytest.mark.parametrize("half", ["bfloat16", "float16"])
@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
def test_private_training_learns_with_half_the_bits(
    gradients: str, half: str, house: House, plain_study: StudyWith
) -> None:
    study = plain_study({**LONG, "privacy": {**PRIVATE, "noise_multiplier": 0.4}})
    house.approve(study)

    found = [
        trained_and_judged(
            house.site(
                **SEED,
                **DECLARED,
                training={"precision": kind, "gradients": gradients},
                state=f"state-{kind}",
            ),
            study,
        )
        for kind in ("float32", half)
    ]

    assert found[1] != found[0]
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=0.05)


def test_precision_is_float32_unless_it_is_said(house: House) -> None:
    assert house.site().precision.kind == "float32"
    assert HospitalFile.model_validate(
        {"name": "a", "data": {"format": "csv", "path": "t.csv"}}
    ).training.model_dump() == {
        "precision": "float32",
        "memory_gib": None,
        "threads": None,
        "gradients": "fedward",
    }


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
def test_who_makes_the_gradients_changes_no_more_than_the_last_bits(
    clipping: str, house: House, plain_study: StudyWith
) -> None:
    privacy = {**PRIVATE, "noise_multiplier": 0.4, "clipping": clipping}
    study = plain_study({**LONG, "privacy": privacy})
    house.approve(study)

    one, other = (
        vector_from(
            house.site(**SEED, **DECLARED, training={"gradients": kind}, state=f"state-{kind}"),
            training(study),
        )
        for kind in ("fedward", "opacus")
    )

    updates = [total_of(study, vector).update for vector in (one, other)]
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-3, atol=1e-5)
    assert np.abs(updates[0]).max() > 0.01
