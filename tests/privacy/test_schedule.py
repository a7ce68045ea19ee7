"""What a private study plans for each hospital, from what the hospital declares alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.privacy_errors import DeltaTooLarge
from fedward.privacy.schedule import (
    epsilon_after,
    evaluating,
    measuring,
    noise_of,
    refuse_large_delta,
    steps_of_round,
)
from fedward.study.errors import OptionError
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
EACH = {k: v for k, v in LOCAL.items() if k != "sampling_rate"} | {"patients_per_step": 5}
"""Each hospital has a rate of its own."""


def private(study: Study) -> LocalPrivacy:
    assert isinstance(study.privacy, LocalPrivacy)
    return study.privacy


# --- Rate, divisor, steps -------------------------------------------------------------------------


@given(st.floats(1e-9, 1), st.integers(1, 10**9))
def test_a_rate_that_the_study_sets_is_every_hospitals(rate: float, declared: int) -> None:
    privacy = LocalPrivacy(mode="local", epsilon=1.0, delta=1e-5, sampling_rate=rate)

    assert privacy.rate_of(declared) == rate
    assert privacy.divisor_of(declared) == max(1.0, rate * declared)


@given(st.integers(1, 10**6), st.integers(1, 10**9))
def test_a_step_has_the_studys_patients_on_average_or_everybody(wanted: int, declared: int) -> None:
    privacy = LocalPrivacy(mode="local", epsilon=1.0, delta=1e-5, patients_per_step=wanted)

    rate = privacy.rate_of(declared)

    assert 0 < rate <= 1
    assert rate * declared == pytest.approx(min(wanted, declared))
    assert privacy.divisor_of(declared) == pytest.approx(min(wanted, declared))
    assert privacy.divisor_of(declared) >= 1


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
    assert steps_of_round(study_with({"privacy": LOCAL, **training}), 0.25) == steps


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 1), (0.5, 2), (0.1, 10), (0.03, 33), (0.9, 1)])
def test_a_private_pass_samples_each_patient_once_on_average(
    rate: float, steps: int, study_with: StudyWith
) -> None:
    study = study_with({"privacy": LOCAL | {"sampling_rate": rate}})

    assert steps_of_round(study, private(study).rate_of(77)) == steps


@pytest.mark.parametrize(("declared", "steps"), [(3, 1), (5, 1), (10, 2), (50, 10), (1000, 200)])
def test_with_patients_a_step_a_larger_hospital_takes_more_steps(
    declared: int, steps: int, study_with: StudyWith
) -> None:
    study = study_with({"privacy": EACH})

    assert steps_of_round(study, private(study).rate_of(declared)) == steps


# --- Noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.25, 0.01])
def test_a_noise_that_the_study_sets_is_used(rate: float, study_with: StudyWith) -> None:
    study = study_with({"privacy": NOISE})

    assert noise_of(study, private(study), rate) == 1.7


def test_the_budget_is_spent_over_all_rounds_together(study_with: StudyWith) -> None:
    study = study_with({"privacy": LOCAL, "training.rounds": 10})
    sigma = noise_of(study, private(study), 0.25)

    spent = epsilon_of([SampledGaussian(sigma, 0.25, 10 * 4)], 1e-5, "rdp")

    assert 1.9 < spent <= 2.0
    assert epsilon_after(study, 10) == pytest.approx(spent)


@pytest.mark.parametrize(
    ("epsilon", "accountant"),
    [
        (0.5, "rdp"),
        (8.0, "rdp"),
        (0.5, "prv"),
        pytest.param(8.0, "prv", marks=pytest.mark.slow),
    ],
)
def test_each_hospital_derives_its_own_noise_and_spends_no_more_than_the_budget(
    epsilon: float, accountant: str, study_with: StudyWith
) -> None:
    """From the patients that it declares: the more there are, the less noise each one needs."""
    change = EACH | {"epsilon": epsilon, "accountant": accountant}
    study = study_with({"privacy": change, "training.rounds": 4})
    privacy = private(study)
    noises = []
    for declared in (4, 25, 200):
        rate = privacy.rate_of(declared)
        sigma = noise_of(study, privacy, rate)
        steps = SampledGaussian(sigma, rate, steps_of_round(study, rate))
        spent = epsilon_of([steps] * 4, 1e-5, privacy.accountant)
        noises.append(sigma)

        assert 0.95 * epsilon - 0.01 <= spent <= epsilon
        assert epsilon_after(study, 4, declared) == pytest.approx(spent)

    assert noises == sorted(noises, reverse=True)
    assert noises[0] > 1.2 * noises[2]


# --- Epsilon --------------------------------------------------------------------------------------


def test_epsilon_grows_round_by_round(study_with: StudyWith) -> None:
    study = study_with({"privacy": LOCAL, "training.rounds": 5})
    after = [epsilon_after(study, rounds) or 0.0 for rounds in range(1, 6)]

    assert after == sorted(set(after))


def test_without_privacy_there_is_no_epsilon(study_with: StudyWith) -> None:
    assert epsilon_after(study_with({}), 3) is None


def test_of_a_study_whose_rate_is_each_hospitals_own_no_one_epsilon_can_be_said(
    study_with: StudyWith,
) -> None:
    study = study_with({"privacy": EACH})

    assert epsilon_after(study, 3) is None
    assert epsilon_after(study, 3, declared=40) is not None


def test_a_hospital_that_declares_one_patient_is_no_hospital_of_which_nothing_is_known(
    study_with: StudyWith,
) -> None:
    """All of its patients, and so the one, are in every step."""
    study = study_with({"privacy": EACH})
    sigma = noise_of(study, private(study), 1.0)
    steps = SampledGaussian(sigma, 1.0, steps_of_round(study, 1.0))

    assert epsilon_after(study, 1, declared=1) == epsilon_of([steps], 1e-5, "rdp")


# --- Delta ----------------------------------------------------------------------------------------


@given(st.floats(1e-9, 0.999), st.integers(1, 5000))
def test_delta_may_be_at_most_1_over_the_declared_patients(delta: float, declared: int) -> None:
    impossible = delta * declared > 1
    try:
        refuse_large_delta(delta, declared=declared)
    except DeltaTooLarge:
        assert impossible
    else:
        assert not impossible


def test_a_delta_that_is_too_large_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(DeltaTooLarge) as caught:
        refuse_large_delta(0.01, declared=150)

    for part in ("0.01", "1 / 150", "0.00667"):
        assert part in caught.value.what
    assert "0.00667" in caught.value.todo


# --- What is measured is paid from the same epsilon -----------------------------------------------

MEASURED = {
    "data.scaling": "measured",
    "data.features": {"age": {"bounds": [20.0, 90.0]}, "sex": {"categories": ["f", "m"]}},
}


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("rate", [0.25, 1.0])
@pytest.mark.parametrize("noise", [3.0, 5.0, 1000.0])
def test_measuring_and_all_rounds_together_cost_the_studys_epsilon(
    noise: float, rate: float, accountant: str, study_with: StudyWith
) -> None:
    terms = LOCAL | {"accountant": accountant, "sampling_rate": rate}
    paid = study_with({**MEASURED, "privacy": terms | {"statistics_noise_multiplier": noise}})
    free = study_with({"privacy": terms})
    privacy = private(paid)

    sigma = noise_of(paid, privacy, rate)
    steps = SampledGaussian(sigma, rate, steps_of_round(paid, rate) * paid.training.rounds)
    spent = epsilon_of([SampledGaussian(noise, 1.0, 1), steps], 1e-5, privacy.accountant)

    assert 1.98 <= spent <= 2.0
    assert measuring(paid) == (SampledGaussian(noise, 1.0, 1),)
    assert measuring(free) == ()
    if noise < 1000:
        assert sigma > noise_of(free, private(free), rate)
    assert epsilon_after(paid, paid.training.rounds) == spent
    assert epsilon_after(paid, 0) == epsilon_of(measuring(paid), 1e-5, privacy.accountant)


@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_where_measuring_takes_the_whole_epsilon_nothing_is_trained(
    noise: float, study_with: StudyWith
) -> None:
    study = study_with({**MEASURED, "privacy": LOCAL | {"statistics_noise_multiplier": noise}})

    with pytest.raises(OptionError, match="too little is left"):
        noise_of(study, private(study), 0.25)


# --- Evaluation with noise is paid from it too ----------------------------------------------------


@pytest.mark.parametrize("accountant", ["rdp", "prv"])
@pytest.mark.parametrize("rate", [0.25, 1.0])
@pytest.mark.parametrize("also", [{}, MEASURED], ids=["alone", "measured"])
@pytest.mark.parametrize("validated", [True, False])
def test_evaluation_and_all_rounds_together_cost_the_studys_epsilon(
    rate: float,
    accountant: str,
    also: dict[str, object],
    validated: bool,
    study_with: StudyWith,
) -> None:
    terms: dict[str, object] = LOCAL | {"accountant": accountant, "sampling_rate": rate}
    statistics = {"statistics_noise_multiplier": 20.0} if also else {}
    parts = {"by": "hash", "train": 0.7, "validation": 0.1, "test": 0.2}
    if not validated:
        parts |= {"validation": 0.0, "test": 0.3}
    changes = {**also, "data.parts": parts, "training.rounds": 3}
    free = study_with({**changes, "privacy": terms | statistics})
    paid = study_with(
        {**changes, "privacy": terms | statistics | {"evaluation_noise_multiplier": 8.0}}
    )
    privacy, judgings = private(paid), 2 if validated else 1

    sigma = noise_of(paid, privacy, rate)
    steps = SampledGaussian(sigma, rate, steps_of_round(paid, rate) * 3)
    evaluated = SampledGaussian(8.0, 1.0, 3 + judgings)
    spent = epsilon_of([*measuring(paid), evaluated, steps], 1e-5, privacy.accountant)

    assert 1.98 <= spent <= 2.0
    assert evaluating(paid, 3) == (evaluated,)
    assert evaluating(paid, 2) == (evaluated._replace(steps=2),)
    assert evaluating(free, 3) == ()
    assert sigma > noise_of(free, private(free), rate)
    assert epsilon_after(paid, 3) == spent
    after = [epsilon_after(paid, rounds) or 0.0 for rounds in range(4)]
    assert after == sorted(set(after))


def test_where_evaluation_takes_the_whole_epsilon_nothing_is_trained(
    study_with: StudyWith,
) -> None:
    study = study_with({"privacy": LOCAL | {"evaluation_noise_multiplier": 2.0}})

    with pytest.raises(OptionError, match="too little is left") as caught:
        noise_of(study, private(study), 0.25)
    assert "evaluation_noise_multiplier" in caught.value.todo
