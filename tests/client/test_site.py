"""A hospital as the server meets it: a request in, an answer out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedward.client.hospital import HospitalFile
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build
from fedward.models.task import Classification
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.plain_sum import Layout, PlainSum, Total
from fedward.study.messages import (
    Answer,
    Contribution,
    EvaluateRequest,
    Part,
    Refusal,
    TrainRequest,
    Vector,
)
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

PRIVATE: dict[str, Any] = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}
SEED: dict[str, Any] = {"simulation": {"seed": 3}}
DECLARED: dict[str, Any] = {"limits": {"declared_records": 50}}


class House:
    """A hospital with files of its own in a folder of its own."""

    def __init__(self, folder: Path, name: str = "north", count: int = 40) -> None:
        self.folder, self.name = folder / name, name
        (self.folder / "studies").mkdir(parents=True)
        rng = np.random.default_rng(5)
        ages, ill = rng.integers(20, 90, count), rng.integers(0, 2, count)
        lines = [
            f"{age + 10 * sick},{'fm'[sex]},{sick}"
            for age, sick, sex in zip(ages, ill, rng.integers(0, 2, count), strict=True)
        ]
        self.write("age,sex,diagnosis\n" + "\n".join(lines) + "\n")

    def write(self, table: str) -> None:
        (self.folder / "t.csv").write_text(table, encoding="utf-8")

    def approve(self, study: Study) -> None:
        text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
        (self.folder / "studies" / "study.toml").write_text(text, encoding="utf-8")

    def site(self, **tables: Any) -> Site:  # noqa: ANN401
        values = {"name": self.name, "device": "cpu", "data": {"format": "csv", "path": "t.csv"}}
        return Site(HospitalFile.model_validate({**values, **tables}), self.folder)


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A hospital of 40 patients: 28 to train on, 4 to validate, 8 to test."""
    return House(tmp_path)


def start_of(study: Study) -> Vector:
    return flat.flatten(build(study, seed=0))


def request(study: Study, number: int = 1, **changes: Any) -> TrainRequest:  # noqa: ANN401
    asked = TrainRequest(study=study.digest(), run="run-1", round=number, model=start_of(study))
    return dataclasses.replace(asked, **changes)


def vector_of(answer: Answer) -> Vector:
    assert isinstance(answer, Contribution), answer
    return answer.vector


def refusal_of(answer: Answer) -> Refusal:
    assert isinstance(answer, Refusal), "answered with a contribution"
    return answer


def total_of(study: Study, vector: Vector, *, update: bool = True) -> Total:
    layout = Layout(len(start_of(study)) if update else 0, Classification(study).size)
    summed = PlainSum(layout)
    summed.add(vector)
    return summed.total()


@pytest.fixture
def study(study_with: StudyWith, house: House) -> Study:
    """An approved study without privacy."""
    found = study_with({})
    house.approve(found)
    return found


@pytest.fixture
def private(study_with: StudyWith, house: House) -> Study:
    """An approved study with privacy."""
    found = study_with({"privacy": PRIVATE})
    house.approve(found)
    return found


# --- Answers --------------------------------------------------------------------------------------


def test_the_answer_is_an_update_the_real_count_and_no_metrics(study: Study, house: House) -> None:
    answer = house.site(**SEED).answer(request(study))

    assert isinstance(answer, Contribution)
    assert answer.hospital == "north"
    total = total_of(study, answer.vector)
    assert total.weight == 28
    assert np.abs(total.update).max() > 0
    assert not total.metrics.any()


def test_the_update_is_the_trained_model_minus_the_one_that_came(
    study_with: StudyWith, house: House
) -> None:
    """A learning rate of almost nothing gives an update of almost nothing, whatever the model."""
    study = study_with({"training.learning_rate": 1e-9})
    house.approve(study)
    far = start_of(study) + np.float32(2)

    answer = house.site(**SEED).answer(request(study, model=far))

    assert np.abs(total_of(study, vector_of(answer)).update).max() < 1e-5


@pytest.mark.parametrize(("part", "count"), [("train", 28), ("validation", 4), ("test", 8)])
def test_the_model_is_judged_as_it_came_on_the_part_that_was_asked_for(
    part: Part, count: int, study: Study, house: House
) -> None:
    site, model = house.site(**SEED), start_of(study)
    judged = site.answer(EvaluateRequest(study.digest(), "run-1", 1, model, part))

    trained = site.answer(request(study, monitor=part))

    metrics = total_of(study, vector_of(judged), update=False).metrics
    assert metrics[0] == count
    assert np.array_equal(total_of(study, vector_of(trained)).metrics, metrics)


def test_watching_does_not_change_the_training(study: Study, house: House) -> None:
    site = house.site(**SEED)
    one, other = (
        total_of(study, vector_of(site.answer(request(study, monitor=part)))).update
        for part in (None, "test")
    )

    assert np.array_equal(one, other)


def test_uniform_weighting_weighs_every_hospital_the_same(
    study_with: StudyWith, house: House
) -> None:
    study = study_with({"aggregation": {"strategy": "fedavg", "weighting": "uniform"}})
    house.approve(study)

    total = total_of(study, vector_of(house.site(**SEED).answer(request(study))))

    assert total.weight == 1


def test_under_privacy_the_weight_is_the_declared_count(private: Study, house: House) -> None:
    total = total_of(private, vector_of(house.site(**SEED, **DECLARED).answer(request(private))))

    assert total.weight == 50


def test_the_noise_shrinks_with_the_declared_count_and_not_the_real_one(
    study_with: StudyWith, house: House
) -> None:
    study = study_with({"privacy": PRIVATE | {"noise_multiplier": 1000.0}})
    house.approve(study)
    sizes = []
    for declared in (50, 5000):
        site = house.site(**SEED, limits={"declared_records": declared})
        update = total_of(study, vector_of(site.answer(request(study)))).update
        sizes.append(float(np.linalg.norm(update)))

    assert sizes[0] / sizes[1] == pytest.approx(100, rel=0.05)


# --- Randomness -----------------------------------------------------------------------------------


@pytest.mark.parametrize("privacy", [False, True])
def test_the_same_seed_gives_the_same_answer_bit_for_bit(
    privacy: bool, study_with: StudyWith, tmp_path: Path
) -> None:
    study = study_with({"privacy": PRIVATE} if privacy else {})
    answers = []
    for place in ("a", "b"):
        house = House(tmp_path / place)
        house.approve(study)
        answers.append(vector_of(house.site(**SEED, **DECLARED).answer(request(study))).tobytes())

    assert answers[0] == answers[1]


@pytest.mark.parametrize("privacy", [False, True])
def test_the_answer_does_not_depend_on_what_was_answered_before(
    privacy: bool, study_with: StudyWith, house: House
) -> None:
    study = study_with({"privacy": PRIVATE} if privacy else {})
    house.approve(study)
    fresh = vector_of(house.site(**SEED, **DECLARED).answer(request(study, 2)))
    site = house.site(**SEED, **DECLARED)
    site.answer(request(study, 1, monitor="test"))
    site.answer(EvaluateRequest(study.digest(), "run-1", 1, start_of(study), "test"))

    assert np.array_equal(vector_of(site.answer(request(study, 2))), fresh)


@pytest.mark.parametrize(
    "change", [{"number": 2}, {"run": "run-2"}], ids=["another round", "another run"]
)
@pytest.mark.parametrize("privacy", [False, True])
def test_another_round_or_run_draws_other_randomness(
    change: dict[str, Any], privacy: bool, study_with: StudyWith, house: House
) -> None:
    study = study_with(
        {"privacy": PRIVATE} if privacy else {"training.batch_size": 5, "training.local_epochs": 2}
    )
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    one, other = (vector_of(site.answer(request(study, **kind))) for kind in ({}, change))

    assert not np.array_equal(one, other)


def test_two_hospitals_with_the_same_records_and_seed_draw_other_noise(
    private: Study, house: House, tmp_path: Path
) -> None:
    south = House(tmp_path, "south")
    south.approve(private)

    one, other = (
        vector_of(h.site(**SEED, **DECLARED).answer(request(private))) for h in (house, south)
    )

    assert not np.allclose(one, other, atol=1e-3)


def test_a_real_hospital_s_noise_is_never_the_same_twice(private: Study, house: House) -> None:
    site = house.site(**DECLARED)

    one, other = (vector_of(site.answer(request(private))) for _ in range(2))

    assert not np.allclose(one, other, atol=1e-3)


# --- The ledger -----------------------------------------------------------------------------------


def test_every_private_round_is_charged_with_the_study_s_steps(
    study_with: StudyWith, house: House
) -> None:
    study = study_with({"privacy": PRIVATE, "training.local_epochs": 3})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2):
        vector_of(site.answer(request(study, number)))

    expected = epsilon_of([SampledGaussian(1.0, 0.5, 2 * 3 * 2)], 1e-5, "rdp")
    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == expected


def test_without_privacy_nothing_is_charged(study: Study, house: House) -> None:
    site = house.site(**SEED)

    site.answer(request(study))

    assert not (house.folder / "state").exists()


def test_judging_is_not_charged(private: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)

    vector_of(site.answer(EvaluateRequest(private.digest(), "r", 1, start_of(private), "test")))

    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == 0


def test_a_round_above_the_cap_is_refused_and_the_ledger_unchanged(
    private: Study, house: House
) -> None:
    one = epsilon_of([SampledGaussian(1.0, 0.5, 2)], 1e-5, "rdp")
    site = house.site(**SEED, limits={"declared_records": 50, "epsilon": 1.01 * one})
    vector_of(site.answer(request(private, 1)))
    file = house.folder / "state" / "ledger.sqlite"
    before = file.read_bytes()

    refusal = refusal_of(site.answer(request(private, 2)))

    assert refusal.error == "BudgetError"
    assert "cap" in refusal.what
    assert file.read_bytes() == before
    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == one


def test_a_restart_forgets_no_charge(private: Study, house: House) -> None:
    one = epsilon_of([SampledGaussian(1.0, 0.5, 2)], 1e-5, "rdp")
    limits = {"limits": {"declared_records": 50, "epsilon": 1.01 * one}}
    vector_of(house.site(**SEED, **limits).answer(request(private, 1)))

    assert refusal_of(house.site(**SEED, **limits).answer(request(private, 2))).error == (
        "BudgetError"
    )


def test_a_real_hospital_does_not_tell_what_is_spent(private: Study, house: House) -> None:
    refusal = refusal_of(
        house.site(limits={"declared_records": 50, "epsilon": 1e-3}).answer(request(private, 1))
    )

    assert refusal.error == "BudgetError"
    assert not any(sign.isdigit() for sign in refusal.what + refusal.todo)


def test_a_server_of_another_version_is_refused(study_with: StudyWith, house: House) -> None:
    study = study_with({})
    house.approve(study)
    refusal = refusal_of(house.site(**SEED).answer(request(study, 1, version="0.0.1")))

    assert refusal.error == "RefusedError"
    assert "0.0.1" in refusal.what


def test_training_that_fails_stays_charged(study_with: StudyWith, house: House) -> None:
    study = study_with({"privacy": PRIVATE, "training.learning_rate": 1e38})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    assert refusal_of(site.answer(request(study))).error == "TrainingError"

    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") > 0


def test_a_whole_run_spends_the_study_s_budget_and_no_more(
    study_with: StudyWith, house: House
) -> None:
    budget = {k: v for k, v in PRIVATE.items() if k != "noise_multiplier"} | {"epsilon": 3.0}
    study = study_with({"privacy": budget})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)

    for number in (1, 2, 3):
        vector_of(site.answer(request(study, number)))

    assert 2.8 < site.ledger.epsilon(delta=1e-5, accountant="rdp") <= 3.0


# --- Refusals -------------------------------------------------------------------------------------


def test_an_unapproved_study_is_refused(study: Study, study_with: StudyWith, house: House) -> None:
    other = study_with({"training.rounds": 99})

    refusal = refusal_of(house.site(**SEED).answer(request(other)))

    assert (refusal.hospital, refusal.error) == ("north", "RefusedError")
    assert other.digest()[:12] in refusal.what
    assert refusal.todo
    assert study.digest() != other.digest()


@pytest.mark.parametrize("withdrawn", ["taken away", "changed"])
def test_an_approval_can_be_withdrawn_while_the_study_runs(
    withdrawn: str, study: Study, study_with: StudyWith, house: House
) -> None:
    site = house.site(**SEED)
    vector_of(site.answer(request(study)))

    if withdrawn == "changed":
        house.approve(study_with({"training.rounds": 99}))
    else:
        (house.folder / "studies" / "study.toml").unlink()

    assert refusal_of(site.answer(request(study, 2))).error == "RefusedError"


def test_a_private_study_needs_a_declared_count(private: Study, house: House) -> None:
    refusal = refusal_of(house.site(**SEED).answer(request(private)))

    assert refusal.error == "RefusedError"
    assert "declared_records" in refusal.todo
    assert not (house.folder / "state" / "ledger.sqlite").exists()


def test_a_fault_in_the_data_is_a_refusal_that_says_it_in_a_simulation(
    study: Study, house: House
) -> None:
    house.write("age,sex,diagnosis\nZACHARIAS,f,0\n")

    refusal = refusal_of(house.site(**SEED).answer(request(study)))

    assert refusal.error == "DataError"
    assert "row 1" in refusal.what


def test_a_real_hospital_tells_nobody_what_stands_in_its_data(study: Study, house: House) -> None:
    house.write("age,sex,diagnosis\nZACHARIAS,f,0\n")

    refusal = refusal_of(house.site().answer(request(study)))

    assert refusal.error == "DataError"
    said = " ".join([refusal.what, refusal.todo])
    for secret in ("ZACHARIAS", "row", "t.csv", str(house.folder)):
        assert secret not in said


def test_a_study_without_a_fitting_model_is_no_approval(
    study_with: StudyWith, house: House
) -> None:
    study = study_with({"model": {"name": "mpl"}})
    house.approve(study)
    asked = TrainRequest(study.digest(), "r", 1, np.zeros(3, dtype=np.float32))

    assert refusal_of(house.site(**SEED).answer(asked)).error == "RefusedError"


@pytest.mark.parametrize("privacy", [False, True])
@pytest.mark.parametrize("rate", [1e20, 1e38])
def test_training_that_ends_in_no_number_is_a_refusal_and_never_a_contribution(
    rate: float, privacy: bool, study_with: StudyWith, house: House
) -> None:
    study = study_with(
        {
            "training.learning_rate": rate,
            "training.local_epochs": 20,
            **({"privacy": PRIVATE} if privacy else {}),
        }
    )
    house.approve(study)

    refusal = refusal_of(house.site(**SEED, **DECLARED).answer(request(study)))

    assert refusal.error == "TrainingError"
    assert "finite" in refusal.what


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_is_no_number_gives_no_contribution(
    value: float, study: Study, house: House
) -> None:
    model = start_of(study)
    model[0] = value

    for asked in (
        request(study, model=model),
        EvaluateRequest(study.digest(), "r", 1, np.full_like(model, np.nan), "test"),
    ):
        assert refusal_of(house.site(**SEED).answer(asked)).error == "TrainingError"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_model_of_another_size_is_refused_before_anything_is_charged(
    change: int, private: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    model = np.zeros(len(start_of(private)) + change, dtype=np.float32)

    for asked in (
        request(private, model=model),
        EvaluateRequest(private.digest(), "r", 1, model, "test"),
    ):
        refusal = refusal_of(site.answer(asked))
        assert refusal.error == "TrainingError"
        assert "fit" in refusal.what
    assert site.ledger.epsilon(delta=1e-5, accountant="rdp") == 0


def test_a_refusal_does_not_spoil_the_next_answer(study: Study, house: House) -> None:
    site = house.site(**SEED)
    expected = vector_of(house.site(**SEED).answer(request(study)))

    site.answer(request(study, model=np.zeros(1, dtype=np.float32)))

    assert np.array_equal(vector_of(site.answer(request(study))), expected)


@pytest.mark.parametrize("number", [0, 4])
def test_a_round_that_the_study_does_not_have_is_refused(
    number: int, study_with: StudyWith, house: House
) -> None:
    study = study_with({"training.rounds": 3})
    house.approve(study)

    assert refusal_of(house.site(**SEED).answer(request(study, number))).error == "RefusedError"


def test_a_changed_approval_of_data_that_was_not_there_is_read_anew(
    study_with: StudyWith, house: House
) -> None:
    study = study_with({})
    house.approve(study)
    site = house.site(**SEED)
    table = house.folder / "t.csv"
    kept = table.read_bytes()
    table.unlink()
    assert refusal_of(site.answer(request(study))).error == "DataError"
    for file in (house.folder / "studies").iterdir():
        file.touch()
    table.write_bytes(kept)

    vector_of(site.answer(request(study)))
