"""What a private study plans."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.schedule import epsilon_after, noise_of, steps_of_round
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

LOCAL = {
    "mode": "local",
    "epsilon": 2.0,
    "delta": 1e-5,
    "sampling_rate": 0.25,
    "accountant": "rdp",
}
NOISE = {k: v for k, v in LOCAL.items() if k != "epsilon"} | {"noise_multiplier": 1.7}


def private(study: Study) -> LocalPrivacy:
    assert isinstance(study.privacy, LocalPrivacy)
    return study.privacy


@pytest.mark.parametrize(
    ("training", "steps"),
    [
        ({"training.local_epochs": 1}, 4),
        ({"training.local_epochs": 3}, 12),
        ({"training": {"rounds": 3, "local_steps": 5, "learning_rate": 0.1}}, 5),
    ],
)
def test_a_round_has_the_study_s_steps(
    training: dict[str, object], steps: int, study_with: StudyWith
) -> None:
    assert steps_of_round(study_with({"privacy": LOCAL, **training})) == steps


def test_a_noise_that_the_study_sets_is_used(study_with: StudyWith) -> None:
    study = study_with({"privacy": NOISE})

    assert noise_of(study, private(study)) == 1.7


def test_the_budget_is_spent_over_all_rounds_together(study_with: StudyWith) -> None:
    study = study_with({"privacy": LOCAL, "training.rounds": 10})
    sigma = noise_of(study, private(study))

    spent = epsilon_of([SampledGaussian(sigma, 0.25, 10 * 4)], 1e-5, "rdp")

    assert 1.9 < spent <= 2.0
    assert epsilon_after(study, 10) == pytest.approx(spent)


def test_epsilon_grows_round_by_round(study_with: StudyWith) -> None:
    study = study_with({"privacy": LOCAL, "training.rounds": 5})
    after = [epsilon_after(study, rounds) or 0.0 for rounds in range(1, 6)]

    assert after == sorted(set(after))


def test_without_privacy_there_is_no_epsilon(study_with: StudyWith) -> None:
    assert epsilon_after(study_with({}), 3) is None
