"""What a hospital's ledger is charged with when it trains under privacy, and what that forbids."""

from __future__ import annotations

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.study.study import Study
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    House,
    StudyWith,
    judging,
    refusal_from,
    training,
    vector_from,
)


def test_every_private_round_is_charged_with_the_study_s_steps(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"privacy": PRIVATE, "training.local_epochs": 3})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2):
        vector_from(site, training(study, number))

    expected = epsilon_of([SampledGaussian(1.0, 0.5, 2 * 3 * 2)], 1e-5, "rdp")
    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == expected


def test_without_privacy_nothing_is_charged(study: Study, house: House) -> None:
    site = house.site(**SEED)

    vector_from(site, training(study))

    assert not (house.folder / "state").exists()


def test_judging_is_not_charged(private: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)

    vector_from(site, judging(private))

    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == 0


def test_a_round_above_the_cap_is_refused_and_the_ledger_unchanged(
    private: Study, house: House
) -> None:
    one = epsilon_of([SampledGaussian(1.0, 0.5, 2)], 1e-5, "rdp")
    site = house.site(**SEED, limits={"declared_records": 50, "epsilon": 1.01 * one})
    vector_from(site, training(private, 1))
    file = house.folder / "state" / "ledger.sqlite"
    before = file.read_bytes()

    refusal = refusal_from(site, training(private, 2))

    assert refusal.error == "BudgetError"
    assert "cap" in refusal.what
    assert file.read_bytes() == before
    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == one


def test_a_restart_forgets_no_charge(private: Study, house: House) -> None:
    one = epsilon_of([SampledGaussian(1.0, 0.5, 2)], 1e-5, "rdp")
    limits = {"limits": {"declared_records": 50, "epsilon": 1.01 * one}}
    vector_from(house.site(**SEED, **limits), training(private, 1))

    assert refusal_from(house.site(**SEED, **limits), training(private, 2)).error == "BudgetError"


def test_a_real_hospital_does_not_tell_what_is_spent(private: Study, house: House) -> None:
    refusal = refusal_from(
        house.site(limits={"declared_records": 50, "epsilon": 1e-3}), training(private, 1)
    )

    assert refusal.error == "BudgetError"
    assert not any(sign.isdigit() for sign in refusal.what + refusal.todo)


def test_training_that_fails_stays_charged(plain_study: StudyWith, house: House) -> None:
    study = plain_study({"privacy": PRIVATE, "training.learning_rate": 1e38})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    assert refusal_from(site, training(study)).error == "TrainingError"

    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") > 0


def test_a_whole_run_spends_the_study_s_budget_and_no_more(
    plain_study: StudyWith, house: House
) -> None:
    budget = {k: v for k, v in PRIVATE.items() if k != "noise_multiplier"} | {"epsilon": 3.0}
    study = plain_study({"privacy": budget})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2, 3):
        vector_from(site, training(study, number))

    assert 2.8 < site.ledger.epsilon(delta=1e-5, accountant="rdp") <= 3.0
