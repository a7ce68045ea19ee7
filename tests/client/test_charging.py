"""What a hospital's ledger is charged with when it trains under privacy, and what that forbids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fedward.client.asked import told_digest
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.schedule import noise_of
from fedward.study.privacy import LocalPrivacy
from fedward.study.study import Study
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    SOURCE,
    House,
    StudyWith,
    judging,
    refusal_from,
    spent,
    training,
    vector_from,
)

ONE = SampledGaussian(1.0, 0.5, 2)
"""A round of the private study."""


def cost(*steps: SampledGaussian, delta: float = 1e-5) -> float:
    return epsilon_of(steps, delta, "rdp")


def limits(**more: float) -> dict[str, Any]:
    return {"limits": {"declared_patients": 50, "delta": 1e-5, **more}}


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in PRIVATE.items() if k != key}


def test_every_private_round_is_charged_with_the_study_s_steps(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"privacy": PRIVATE, "training.local_epochs": 3})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2):
        vector_from(site, training(study, number))

    assert spent(site) == cost(ONE._replace(steps=2 * 3 * 2))
    for number, entry in enumerate(site.ledger.entries(), start=1):
        charge = entry.charge
        assert (charge.data, charge.study, charge.run) == ("data", study.digest(), "run-1")
        assert (charge.round, charge.steps) == (number, ONE._replace(steps=6))
        assert (charge.delta, charge.accountant) == (1e-5, "rdp")


def test_the_charge_is_on_disk_before_the_first_gradient(
    private: Study, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = house.site(**SEED, **DECLARED)
    charged: list[int] = []
    step = PatientSteps.gradient

    def watched(self: PatientSteps, loss: Any, *tensors: Tensor) -> None:  # noqa: ANN401
        charged.append(len(house.site().ledger.entries()))
        step(self, loss, *tensors)

    monkeypatch.setattr(PatientSteps, "gradient", watched)
    for number in (1, 2):
        vector_from(site, training(private, number))

    assert charged == [1, 1, 2, 2]


def test_without_privacy_nothing_is_charged(study: Study, house: House) -> None:
    site = house.site(**SEED)

    vector_from(site, training(study))

    assert not (house.folder / "state").exists()


def test_judging_is_not_charged(private: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)

    vector_from(site, judging(private))

    assert spent(site) == 0


def test_a_noise_that_is_written_as_a_whole_number_leaves_a_ledger_that_verifies(
    plain_study: StudyWith, house: House
) -> None:
    """The hash of a row is of what comes back from the file."""
    study = plain_study({"privacy": PRIVATE | {"noise_multiplier": 1, "sampling_rate": 1}})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2):
        vector_from(site, training(study, number))

    assert spent(site) == cost(SampledGaussian(1.0, 1.0, 2))


# --- The cap --------------------------------------------------------------------------------------


def test_a_round_above_the_cap_is_refused_and_the_ledger_unchanged(
    private: Study, house: House
) -> None:
    site = house.site(**SEED, **limits(epsilon=1.01 * cost(ONE)))
    vector_from(site, training(private, 1))
    file = house.folder / "state" / "ledger.sqlite"
    before = file.read_bytes()

    refusal = refusal_from(site, training(private, 2))

    assert refusal.error == "BudgetError"
    assert "cap" in refusal.what
    assert file.read_bytes() == before
    assert spent(site) == cost(ONE)


def test_a_restart_forgets_no_charge(private: Study, house: House) -> None:
    cap = limits(epsilon=1.01 * cost(ONE))
    vector_from(house.site(**SEED, **cap), training(private, 1))

    assert refusal_from(house.site(**SEED, **cap), training(private, 2)).error == "BudgetError"


@pytest.mark.parametrize(("delta", "refused"), [(1e-9, True), (1e-5, False)])
def test_the_cap_is_counted_at_the_hospitals_delta(
    delta: float, refused: bool, private: Study, house: House
) -> None:
    cap = (cost(ONE) + cost(ONE, delta=1e-9)) / 2
    site = house.site(**SEED, **limits(epsilon=cap, delta=delta))

    if refused:
        assert refusal_from(site, training(private)).error == "BudgetError"
    else:
        vector_from(site, training(private))


def test_two_studies_on_one_data_set_share_its_cap(
    private: Study, plain_study: StudyWith, house: House
) -> None:
    other = plain_study({"privacy": PRIVATE | {"noise_multiplier": 2.0}, "training.rounds": 5})
    cap = limits(epsilon=1.01 * cost(ONE, ONE._replace(noise_multiplier=2.0)))
    house.approve(private)
    vector_from(house.site(**SEED, **cap), training(private, 1))
    house.approve(other)
    site = house.site(**SEED, **cap)
    vector_from(site, training(other, 1))

    assert spent(site) == cost(ONE, ONE._replace(noise_multiplier=2.0))
    assert refusal_from(site, training(other, 2)).error == "BudgetError"


def test_two_data_sets_have_a_cap_each(private: Study, house: House) -> None:
    cap = limits(epsilon=1.01 * cost(ONE))
    eyes, hearts = (
        house.site(**SEED, **cap, data=SOURCE | {"name": name}) for name in ("eyes", "hearts")
    )
    vector_from(eyes, training(private, 1))
    assert refusal_from(eyes, training(private, 2)).error == "BudgetError"

    vector_from(hearts, training(private, 1, run="run-2"))

    assert spent(eyes, data="eyes") == spent(hearts, data="hearts") == cost(ONE)
    assert spent(eyes) == 0


def test_a_real_hospital_does_not_tell_what_is_spent(private: Study, house: House) -> None:
    refusal = refusal_from(house.site(**limits(epsilon=1e-3)), training(private, 1))

    assert refusal.error == "BudgetError"
    assert not any(sign.isdigit() for sign in refusal.what + refusal.todo)


@pytest.mark.parametrize("harm", ["changed", "cut short"])
def test_a_ledger_that_was_harmed_is_a_refusal_and_nothing_can_be_spent(
    harm: str, private: Study, house: House
) -> None:
    site = house.site(**DECLARED)
    vector_from(site, training(private, 1))
    file = house.folder / "state" / "ledger.sqlite"
    kept = file.read_bytes()
    if harm == "changed":
        file.write_bytes(kept.replace(b"run-1", b"run-7"))
    else:
        file.write_bytes(kept[: len(kept) // 2])

    for again in (site, house.site(**DECLARED)):
        refusal = refusal_from(again, training(private, 2))
        assert refusal.error == "BudgetError"
        assert not any(sign.isdigit() for sign in refusal.what + refusal.todo)
    file.write_bytes(kept)
    vector_from(site, training(private, 2))


def test_training_that_fails_stays_charged(plain_study: StudyWith, house: House) -> None:
    """It is the noise that is too large here, and not a record."""
    privacy = PRIVATE | {"noise_multiplier": 1e4}
    study = plain_study({"privacy": privacy, "training.learning_rate": 1e38})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    assert refusal_from(site, training(study)).error == "TrainingError"

    assert spent(site) > 0


# --- What a run is held to ------------------------------------------------------------------------


def test_a_round_is_not_answered_again_with_other_metrics(private: Study, house: House) -> None:
    """Each answer would have noise of its own, and their mean less and less of it."""
    site = house.site(**SEED, **DECLARED)
    first = vector_from(site, training(private, 1, monitor="validation"))

    for monitor in (None, "test"):
        refusal = refusal_from(site, training(private, 1, monitor=monitor))
        assert refusal.error == "AnotherModel"

    assert len(site.ledger.entries()) == 1
    again = vector_from(site, training(private, 1, monitor="validation"))
    assert again.tobytes() == first.tobytes()
    assert len(site.ledger.entries()) == 1


def test_the_charge_is_for_the_question_and_not_for_its_model_alone(
    private: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    asked = training(private, 1, monitor="test")
    vector_from(site, asked)

    (entry,) = site.ledger.entries()
    assert entry.charge.told == told_digest(asked).hex()
    assert entry.charge.told != told_digest(training(private, 1)).hex()


@pytest.mark.parametrize("declared", [5, 49, 500])
def test_a_run_whose_rate_changes_is_refused(
    declared: int, plain_study: StudyWith, house: House
) -> None:
    """Its noise was calibrated for the rate that it began with."""
    each = without("sampling_rate") | {"patients_per_step": 5}
    study = plain_study({"privacy": each})
    house.approve(study)
    vector_from(house.site(**SEED, **DECLARED), training(study, 1))

    other = house.site(**SEED, limits={"declared_patients": declared})
    refusal = refusal_from(other, training(study, 2))

    assert refusal.error == "PlanChanged"
    assert "declared_patients" in refusal.todo
    assert len(other.ledger.entries()) == 1
    vector_from(house.site(**SEED, **DECLARED), training(study, 2))


def test_crashes_may_waste_three_rounds_of_a_run_and_no_more(private: Study, house: House) -> None:
    """Three rounds have six charges; whoever makes answers disappear gets no seventh."""
    site = house.site(**DECLARED)
    for _ in range(6):
        vector_from(site, training(private, 1))
        for kept in (house.folder / "state" / "runs").glob("*/round-*"):
            kept.unlink()

    assert refusal_from(site, training(private, 1)).error == "BudgetError"
    assert refusal_from(house.site(**DECLARED), training(private, 2)).error == "BudgetError"

    assert len(site.ledger.entries()) == 6
    vector_from(site, training(private, 1, run="run-2"))


# --- A whole run ----------------------------------------------------------------------------------


def test_a_whole_run_spends_the_study_s_budget_and_no_more(
    plain_study: StudyWith, house: House
) -> None:
    study = plain_study({"privacy": without("noise_multiplier") | {"epsilon": 3.0}})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2, 3):
        vector_from(site, training(study, number))

    assert 2.8 < spent(site) <= 3.0


def test_each_hospital_derives_noise_and_rate_from_the_patients_that_it_declares(
    plain_study: StudyWith, tmp_path: Path
) -> None:
    """Both spend no more than the study's budget in all its rounds, restarts or not."""
    budget = {k: v for k, v in without("noise_multiplier").items() if k != "sampling_rate"}
    study = plain_study({"privacy": budget | {"epsilon": 3.0, "patients_per_step": 10}})
    assert isinstance(study.privacy, LocalPrivacy)
    noises = {}
    for declared in (20, 100):
        house = House(tmp_path, f"with {declared}")
        house.approve(study)
        for number in (1, 2, 3):
            site = house.site(**SEED, limits={"declared_patients": declared})
            vector_from(site, training(study, number))
        (steps,) = {entry.charge.steps for entry in site.ledger.entries()}
        noises[declared] = steps.noise_multiplier

        rate = 10 / declared
        assert (steps.sampling_rate, steps.steps) == (rate, declared // 10)
        assert steps.noise_multiplier == noise_of(study, study.privacy, rate)
        assert 2.8 < spent(site) <= 3.0

    assert noises[20] > 1.2 * noises[100]
