"""Evaluation with noise: what leaves, what it is charged with, and what that forbids."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.client.asked import told_digest
from fedward.client.budget import exported
from fedward.client.budget import spent as budget
from fedward.client.data.records import Records
from fedward.client.evaluation import patient_sums
from fedward.client.site import Site
from fedward.models.registry import build
from fedward.models.task import task_of
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.contribution import Layout
from fedward.privacy.ledger import EVALUATION, MECHANISM
from fedward.privacy.plain_sum import PlainSum
from fedward.privacy.secret_stream import SecretStream
from fedward.study.messages import EvaluateRequest, Part, Request, TrainRequest
from fedward.study.study import Study
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    House,
    StudyWith,
    judging,
    refusal_from,
    spent,
    start_of,
    training,
    vector_from,
)

Array = NDArray[np.float64]

NOISE = 3.0
NOISED = PRIVATE | {"evaluation_noise_multiplier": NOISE}
ROUND = SampledGaussian(1.0, 0.5, 2)
ONCE = SampledGaussian(NOISE, 1.0, 1)


def cost(*steps: SampledGaussian) -> float:
    return epsilon_of(steps, 1e-5, "rdp")


@pytest.fixture
def noised(plain_study: StudyWith, house: House) -> Study:
    """An approved private study whose evaluation has noise."""
    found = plain_study({"privacy": NOISED})
    house.approve(found)
    return found


def task(study: Study) -> NoisedClassification:
    found = task_of(study)
    assert isinstance(found, NoisedClassification)
    return found


def sums_from(site: Site, study: Study, asked: Request) -> Array:
    """The metric sums in what a hospital adds."""
    model = len(start_of(study)) if isinstance(asked, TrainRequest) else 0
    total = PlainSum(Layout(model, task(study).size))
    total.add(vector_from(site, asked))
    return total.total().metrics


def exact(site: Site, study: Study, part: Part) -> Array:
    """The sums before noise, of patients of one record each."""
    loaded = site.load(study.digest())
    model = build(study, seed=0).eval()
    records = loaded.parts[part]
    stream = SecretStream.pretended(0)
    return patient_sums(model, records, task(study), stream)


def forget_answers(house: House) -> None:
    for kept in (house.folder / "state" / "runs").glob("*/round-*"):
        kept.unlink()


ASKED: dict[str, Callable[[Study], Request]] = {
    "judging": judging,
    "judging validation": lambda study: judging(study, "validation"),
    "monitored": lambda study: training(study, monitor="validation"),
}
every_way = pytest.mark.parametrize("way", ASKED)


# --- Before the noise -----------------------------------------------------------------------------


@st.composite
def wards(draw: st.DrawFn) -> Records:
    """Records of several patients, of whom patient 0 may have very many, with any inputs."""
    count = draw(st.integers(1, 60))
    numbers = st.floats(-3, 3, width=32) | st.floats(width=32)
    inputs = draw(st.lists(st.tuples(*[numbers] * 3), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
    whose = draw(st.lists(st.sampled_from([0, 0, 0, 0, 5, 7, 9]), min_size=count, max_size=count))
    return Records(torch.tensor(inputs), torch.tensor(labels), torch.tensor(whose))


@pytest.mark.parametrize("most", [1, 3, 10_000])
@given(records=wards(), pieces=st.sampled_from([1, 2, 512]))
def test_one_patient_less_moves_what_noise_is_added_to_by_at_most_the_norm(
    most: int, records: Records, pieces: int, study_with: StudyWith
) -> None:
    """The others' records are all judged alike, so that the choice of records is not in it."""
    study = study_with({"privacy": NOISED | {"records_per_patient": most}})
    if most < 10_000:  # each of the others has one record, which is always chosen
        first = torch.tensor(
            [int(p) == 0 or p not in records.patients[:at] for at, p in enumerate(records.patients)]
        )
        records = Records(records.inputs[first], records.labels[first], records.patients[first])
    rest = records.patients != 0
    model = build(study, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedward.client.evaluation._PATIENTS", pieces)
        whole, less = (
            patient_sums(model, some, task(study), SecretStream.pretended(1))
            for some in (
                records,
                Records(records.inputs[rest], records.labels[rest], records.patients[rest]),
            )
        )

    assert np.linalg.norm(whole - less) <= task(study).norm * (1 + 1e-9)
    assert less[0] == pytest.approx(len(records.patients[rest].unique()))


def test_a_patient_who_weighs_more_than_the_norm_would_be_shortened(
    study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No patient does; it is held all the same."""
    study = study_with({"privacy": NOISED})
    vectors = NoisedClassification.patient_vectors
    monkeypatch.setattr(
        NoisedClassification, "patient_vectors", lambda *given: 100 * vectors(*given)
    )
    one = Records(torch.zeros(1, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(1))

    found = patient_sums(build(study, seed=0), one, task(study), SecretStream.pretended(1))

    assert np.linalg.norm(found) == pytest.approx(task(study).norm)


def test_a_patient_brings_at_most_the_study_s_number_of_records(study_with: StudyWith) -> None:
    """Each record of this patient lies in another bin; three of them have a third each."""
    study = study_with({"privacy": NOISED | {"records_per_patient": 3}})
    inputs = torch.linspace(-60, 60, 30)[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
    records = Records(inputs, torch.arange(30) % 2, torch.zeros(30, dtype=torch.int64))
    found = patient_sums(build(study, seed=0), records, task(study), SecretStream.pretended(2))

    counts = 3 * found[2:6]
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-9)
    assert found[2:6].sum() == pytest.approx(1)


# --- The noise ------------------------------------------------------------------------------------


@pytest.mark.slow
@every_way
def test_the_noise_has_the_deviation_that_is_paid_for(
    way: str, noised: Study, house: House
) -> None:
    """Multiplier times norm in every sum, and everywhere a number of its own."""
    site = house.site(**SEED, **DECLARED)
    asked = ASKED[way](noised)
    part: Part = "test" if way == "judging" else "validation"
    wanted = exact(site, noised, part)
    off = np.array(
        [
            sums_from(site, noised, replace(asked, run=f"run-{number}")) - wanted
            for number in range(60)
        ]
    )

    assert task(noised).deviation == NOISE * 2
    assert off.std() == pytest.approx(NOISE * 2, rel=0.05)
    assert off.mean() == pytest.approx(0, abs=4 * NOISE * 2 / np.sqrt(off.size))
    for place in (0, 1, *range(2, 6), 6, -1):  # the number of patients among them
        assert off[:, place].std() == pytest.approx(NOISE * 2, rel=0.35)
    assert np.abs(np.corrcoef(off.T) - np.eye(off.shape[1])).max() < 0.65


def test_a_real_hospital_s_noise_never_comes_again(plain_study: StudyWith, house: House) -> None:
    """The very code that draws it, for a hospital that pretends nothing."""
    study = plain_study({"privacy": NOISED})
    house.approve(study)
    site = house.site(**DECLARED)
    loaded, asked = site.load(study.digest()), judging(study)
    one, other = (
        site._sums(asked, build(study, seed=0), loaded, loaded.parts["test"]) for _ in range(2)
    )

    assert not np.any(one == other)


def test_where_nobody_is_noise_leaves_and_is_charged_all_the_same(
    plain_study: StudyWith, house: House
) -> None:
    parts = {"by": "hash", "train": 0.99, "validation": 0.005, "test": 0.005, "seed": 4}
    study = plain_study({"privacy": NOISED, "data.parts": parts})
    house.approve(study)
    site = house.site(**SEED, **DECLARED)
    assert len(site.load(study.digest()).parts["test"]) == 0

    sums = sums_from(site, study, judging(study))

    assert sums.std() == pytest.approx(NOISE * 2, rel=0.35)
    assert spent(site) == cost(ONCE)


def test_monitored_training_is_that_without_noise_in_its_evaluation(
    plain_study: StudyWith, house: House
) -> None:
    """The update and its noise are the same to the last bit."""
    updates = []
    for privacy in (PRIVATE, NOISED):
        study = plain_study({"privacy": privacy})
        house.approve(study)
        vector = vector_from(
            house.site(**SEED, **DECLARED), training(study, monitor="test", run="run-1")
        )
        updates.append(vector[: len(start_of(study)) + 4])

    assert updates[0].tobytes() == updates[1].tobytes()


# --- The charge -----------------------------------------------------------------------------------


@every_way
def test_it_is_charged_exactly_once_however_often_it_is_asked(
    way: str, noised: Study, house: House
) -> None:
    site, asked = house.site(**SEED, **DECLARED), ASKED[way](noised)
    first = vector_from(site, asked)
    again = vector_from(site, asked)
    restarted = vector_from(house.site(**SEED, **DECLARED), asked)

    assert first.tobytes() == again.tobytes() == restarted.tobytes()
    entries = [entry.charge for entry in site.ledger.entries()]
    kinds = [MECHANISM] if way == "monitored" else []
    assert [charge.mechanism for charge in entries] == [EVALUATION, *kinds]
    assert entries[0].steps == ONCE
    for charge in entries:
        assert (charge.round, charge.told) == (asked.round, told_digest(asked).hex())
    assert spent(site) == cost(ONCE, *[ROUND for _ in kinds])


@every_way
def test_the_charge_is_on_disk_before_a_record_is_judged(
    way: str, noised: Study, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = house.site(**SEED, **DECLARED)
    charged: list[str] = []

    def watched(*given: Any, **more: Any) -> Array:  # noqa: ANN401
        charged.extend(e.charge.mechanism for e in house.site().ledger.entries())
        return patient_sums(*given, **more)

    monkeypatch.setattr("fedward.client.evaluation.patient_sums", watched)
    vector_from(site, ASKED[way](noised))

    assert charged == ([EVALUATION, MECHANISM] if way == "monitored" else [EVALUATION])


def test_a_round_that_is_not_monitored_pays_for_training_alone(noised: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(noised))

    assert [entry.charge.mechanism for entry in site.ledger.entries()] == [MECHANISM]
    assert spent(site) == cost(ROUND)


def whole_run(study: Study) -> list[TrainRequest | EvaluateRequest]:
    rounds = [training(study, number, monitor="validation") for number in (1, 2, 3)]
    return [*rounds, judging(study, "validation"), judging(study)]


@pytest.mark.slow
@pytest.mark.parametrize("accountant", ["rdp", "prv"])
def test_a_whole_run_spends_the_study_s_budget_and_no_more(
    accountant: str, plain_study: StudyWith, house: House
) -> None:
    """Restarted before every exchange: the noise of its rounds is found again, and only theirs."""
    terms = {k: v for k, v in NOISED.items() if k != "noise_multiplier"}
    budgeted = terms | {
        "epsilon": 6.0,
        "accountant": accountant,
        "evaluation_noise_multiplier": 4.0,
    }
    study = plain_study({"privacy": budgeted})
    house.approve(study)
    for asked in whole_run(study):
        vector_from(house.site(**SEED, **DECLARED), asked)

    site = house.site(**SEED, **DECLARED)
    charges = [entry.charge for entry in site.ledger.entries()]
    trained = {c.steps for c in charges if c.mechanism == MECHANISM}
    evaluated = [c.steps for c in charges if c.mechanism == EVALUATION]
    assert len(trained) == 1
    assert evaluated == [SampledGaussian(4.0, 1.0, 1)] * 5
    epsilon = site.ledger.epsilon(data="data", delta=1e-5, accountant=accountant)  # type: ignore[arg-type]
    assert 5.9 < epsilon <= 6.0
    row = next(r for r in budget(site.hospital, house.folder) if r.study == "all")
    assert (row.rounds, row.epsilon) == (8, epsilon)
    kinds = [charge["mechanism"] for charge in exported(site.hospital, house.folder)["charges"]]
    assert kinds == [c.mechanism for c in charges]


@every_way
def test_a_cap_holds_for_it_too_and_nothing_is_spent(way: str, noised: Study, house: House) -> None:
    """Of a monitored round neither half is paid, though the cap would allow either."""
    asked = ASKED[way](noised)
    steps = [ONCE, ROUND] if way == "monitored" else [ONCE]
    limits = {"declared_patients": 50, "delta": 1e-5}
    tight = house.site(**SEED, limits=limits | {"epsilon": 0.999 * cost(*steps)})
    wide = house.site(**SEED, limits=limits | {"epsilon": 1.001 * cost(*steps)})

    refusal = refusal_from(tight, asked)
    assert refusal.error == "BudgetError"
    assert "cap" in refusal.what
    assert tight.ledger.entries() == []
    vector_from(wide, asked)


def test_a_real_hospital_gives_no_metrics_in_the_clear_with_noise_either(
    noised: Study, house: House
) -> None:
    site = house.site(**DECLARED)

    assert refusal_from(site, judging(noised)).error == "MetricWouldLeave"
    assert site.ledger.entries() == []


def test_no_figure_of_the_training_records_leaves_with_noise_either(
    noised: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    for asked in (judging(noised, "train"), training(noised, monitor="train")):
        assert refusal_from(site, asked).error == "MetricWouldLeave"
    assert site.ledger.entries() == []


# --- What a run is held to ------------------------------------------------------------------------


@every_way
def test_the_same_exchange_about_another_model_is_refused(
    way: str, noised: Study, house: House
) -> None:
    site, asked = house.site(**SEED, **DECLARED), ASKED[way](noised)
    assert isinstance(asked, TrainRequest | EvaluateRequest)
    vector_from(site, asked)
    before = len(site.ledger.entries())

    other = replace(asked, model=asked.model + np.float32(1))

    assert refusal_from(site, other).error == "AnotherModel"
    assert len(site.ledger.entries()) == before


def test_what_comes_after_is_not_followed_by_what_came_before(noised: Study, house: House) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, judging(noised))

    for asked in (judging(noised, "validation"), training(noised, 1, monitor="validation")):
        assert refusal_from(site, asked).error == "RoundIsOver"


@pytest.mark.parametrize("part", ["validation", "test"])
def test_a_run_judges_the_patients_that_it_began_with(
    part: Part, noised: Study, house: House
) -> None:
    """One patient's label is another."""
    site = house.site(**SEED, **DECLARED)
    vector_from(site, training(noised, 1))
    other = house.site(**SEED, **DECLARED)
    parts = copy.copy(other.load(noised.digest()).parts)
    labels = parts[part].whole_labels.clone()
    labels[0] = 1 - labels[0]
    parts[part] = Records(parts[part].inputs, labels, parts[part].patients, parts[part].people)
    other.keep(noised, parts)

    for asked in (judging(noised), training(noised, 2, monitor="validation")):
        assert refusal_from(other, asked).error == "PopulationChanged"
    assert len(other.ledger.entries()) == 1


def test_crashes_may_waste_three_evaluations_of_a_run_and_no_more(
    noised: Study, house: House
) -> None:
    """Three rounds and two judgings are five evaluations."""
    site = house.site(**SEED, **DECLARED)
    for _ in range(8):
        vector_from(site, judging(noised))
        forget_answers(house)

    assert refusal_from(site, judging(noised)).error == "BudgetError"
    assert len(site.ledger.entries()) == 8


def test_evaluations_that_nobody_asks_for_are_no_more_training(noised: Study, house: House) -> None:
    """Six times, as without noise."""
    site = house.site(**SEED, **DECLARED)
    for _ in range(6):
        vector_from(site, training(noised, 1))
        forget_answers(house)

    assert refusal_from(site, training(noised, 1)).error == "BudgetError"
    assert len(site.ledger.entries()) == 6


def test_three_are_wasted_of_a_run_and_not_of_each_kind(noised: Study, house: House) -> None:
    """Three rounds, five evaluations and three that are wasted are eleven charges."""
    site = house.site(**SEED, **DECLARED)
    for _ in range(2):
        vector_from(site, training(noised, 1))
        forget_answers(house)
    for _ in range(4):
        vector_from(site, training(noised, 1, run="run-1", monitor=None))
        forget_answers(house)
    for _ in range(5):
        vector_from(site, judging(noised))
        forget_answers(house)
    assert len(site.ledger.entries()) == 11

    assert refusal_from(site, judging(noised)).error == "BudgetError"
    assert len(site.ledger.entries()) == 11


def test_a_ledger_of_another_noise_is_another_plan(
    noised: Study, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's evaluations are alike; the digest holds the study, this holds the code."""
    site = house.site(**SEED, **DECLARED)
    vector_from(site, judging(noised, "validation"))
    monkeypatch.setattr(
        "fedward.client.charging._evaluation",
        lambda _: {EVALUATION: ONCE._replace(noise_multiplier=1.0)},
    )

    assert refusal_from(site, judging(noised)).error == "PlanChanged"


def test_nothing_is_kept_where_others_can_read_it(noised: Study, house: House) -> None:
    vector_from(house.site(**SEED, **DECLARED), judging(noised))

    (kept,) = (house.folder / "state" / "runs").glob("*/round-*")
    assert kept.stat().st_mode & 0o077 == 0


def test_judging_a_study_without_noise_leaves_nothing_behind(
    private: Study, house: House, tmp_path: Path
) -> None:
    site = house.site(**SEED, **DECLARED)
    vector_from(site, judging(private))
    vector_from(site, training(private, 1, monitor="validation"))

    assert [entry.charge.mechanism for entry in site.ledger.entries()] == [MECHANISM]
    files = (house.folder / "state" / "runs").glob("*/round-*")
    assert [file.name.split("-")[1] for file in files] == ["1"]
