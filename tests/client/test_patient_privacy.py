"""What one patient can change in what leaves a hospital, from its records to its answer."""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fedward.client.data.records import Parts, Records
from fedward.client.site import Site
from fedward.study.messages import Part, Vector
from fedward.study.study import Study
from tests import secure_sites
from tests.client.conftest import (
    DECLARED,
    PRIVATE,
    SEED,
    SOURCE,
    House,
    StudyWith,
    judging,
    total_of,
    training,
    vector_from,
)

NORM = 0.01
QUIET = PRIVATE | {
    "noise_multiplier": 1e-6,
    "clipping_norm": NORM,
    "sampling_rate": 1.0,
    "records_per_patient": 10_000,
}
"""One step over everybody, with as good as no noise."""
MANY = 40


def ward() -> Records:
    """Patient 1 has forty records that pull one way; the others have a few."""
    source = torch.Generator().manual_seed(3)
    inputs = torch.randn(MANY + 9, 3, generator=source)
    inputs[:MANY] = torch.tensor([2.0, -1.0, 1.0]) + 0.01 * inputs[:MANY]
    labels = torch.randint(0, 2, (MANY + 9,), generator=source)
    labels[:MANY] = 1
    patients = torch.tensor([1] * MANY + [0, 0, 0, 2, 3, 3, 3, 3, 4])
    return Records(inputs, labels, patients)


def without(records: Records, patient: int) -> Records:
    kept = records.patients != patient
    return Records(records.inputs[kept], records.labels[kept], records.patients[kept])


def alone(records: Records) -> Records:
    """Each record as if it were a patient of its own."""
    return Records(records.inputs, records.labels, torch.arange(len(records)))


def site_with(house: House, study: Study, records: Records, **limits: Any) -> Site:  # noqa: ANN401
    """The hospital with these records to train on."""
    site = house.site(**SEED, limits={**DECLARED["limits"], **limits})
    nothing = Records(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    parts: Parts = {"train": records, "validation": nothing, "test": nothing}
    site.keep(study, parts)
    return site


@pytest.fixture
def quiet(plain_study: StudyWith) -> Study:
    """A private round whose update is the sum over patients, over 50, and almost no noise."""
    return plain_study({"privacy": QUIET, "training.learning_rate": 1.0})


def update_of(house: House, study: Study, records: Records, run: str, **limits: Any) -> Vector:  # noqa: ANN401
    vector = vector_from(site_with(house, study, records, **limits), training(study, run=run))
    return np.asarray(total_of(study, vector).update, dtype=np.float32)


def moved(house: House, study: Study, records: Records, others: Records) -> float:
    """How far the sum moves that the update is the fiftieth part of."""
    whole, rest = (update_of(house, study, r, run) for run, r in (("a", records), ("b", others)))
    return 50 * float(np.linalg.norm(whole - rest))


@pytest.mark.parametrize("patient", range(5))
def test_no_patient_moves_a_hospitals_answer_by_more_than_the_norm(
    patient: int, quiet: Study, house: House
) -> None:
    moves = moved(house, quiet, ward(), without(ward(), patient))

    assert 0.1 * NORM < moves <= NORM * 1.001


@pytest.mark.parametrize("patient", [0, 1, 4])
@pytest.mark.parametrize("oddity", [math.nan, math.inf, 1e15, 1e25, 3e38])
def test_a_patient_who_makes_the_model_overflow_is_not_told_by_a_failure(
    oddity: float, patient: int, quiet: Study, house: House
) -> None:
    """The aggregator chooses the model, and could make it overflow for one patient alone."""
    everybody = ward()
    everybody.whole[(everybody.patients == patient).nonzero()[0]] = oddity

    assert moved(house, quiet, everybody, without(everybody, patient)) <= NORM * 1.001


@pytest.mark.parametrize("oddity", [math.nan, math.inf, 3e38])
def test_in_a_secure_sum_it_is_not_counted_as_failed_either(oddity: float, tmp_path: Path) -> None:
    study = secure_sites.study_of(privacy=secure_sites.PRIVATE | {"sampling_rate": 1.0})
    run = secure_sites.Run(secure_sites.Sites(tmp_path, study), study)
    digest = study.digest()
    for name in ("a", "b"):
        site = run.sites[name]
        for records in site.load(digest).parts.values():
            records.whole[:1] = oddity

    total = run.play(dataclasses.replace(run.train(1), monitor="validation"))

    assert total.failed == 0
    assert np.isfinite(total.update).all()
    assert np.isfinite(total.metrics).all()
    assert total.metrics[0] > 0


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("oddity", [math.nan, math.inf, 3e38])
def test_nor_does_a_record_that_is_judged_make_judging_fail(
    oddity: float, part: Part, private: Study, house: House
) -> None:
    site = house.site(**SEED, **DECLARED)
    records = site.load(private.digest()).parts[part]
    records.whole[0] = oddity

    metrics = total_of(private, vector_from(site, judging(private, part)), update=False).metrics

    assert metrics[0] == len(records)
    assert metrics[1] <= 100 * len(records)


def test_if_records_were_protected_a_patient_with_forty_would_move_it_by_thirty_times_that(
    quiet: Study, house: House
) -> None:
    everybody, others = ward(), without(ward(), 1)

    assert moved(house, quiet, alone(everybody), alone(others)) > 30 * NORM


def test_a_patient_brings_one_record_if_the_study_says_nothing_else(
    plain_study: StudyWith, house: House
) -> None:
    """So that it does not matter what the others are."""
    one = plain_study(
        {
            "privacy": {k: v for k, v in QUIET.items() if k != "records_per_patient"},
            "training.learning_rate": 1.0,
        }
    )
    same = Records(torch.ones(3, 3), torch.tensor([0, 0, 1]), torch.zeros(3, dtype=torch.int64))
    found = {
        tuple(np.round(update_of(house, one, same, f"run {number}") * 1e6).tolist())
        for number in range(12)
    }

    assert len(found) == 2  # the record with label 0, or the one with label 1


@pytest.mark.parametrize(
    ("at_once", "together"), [(1, [3, 40, 1, 4, 1]), (5, [3, 40, 5, 1]), (43, [43, 6])]
)
def test_the_records_that_are_held_at_once_change_the_memory_and_not_the_answer(
    at_once: int,
    together: list[int],
    quiet: Study,
    house: House,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No patient is torn, so the forty stay together."""
    whole = update_of(house, quiet, ward(), "a")
    seen: list[int] = []
    forward = torch.nn.Sequential.forward

    def watched(self: torch.nn.Sequential, inputs: Tensor) -> Any:  # noqa: ANN401
        seen.append(len(inputs))
        return forward(self, inputs)  # type: ignore[no-untyped-call]

    shutil.rmtree(house.folder / "state" / "runs")  # the answer would not be made a second time
    monkeypatch.setattr(torch.nn.Sequential, "forward", watched)
    found = update_of(house, quiet, ward(), "a", records_at_once=at_once)

    assert seen == [2, 3, *together]  # a new model is tried with copies of one record
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-9)


def test_a_table_says_whose_its_records_are(plain_study: StudyWith, house: House) -> None:
    """Ten patients of four records each, some of whom are trained on."""
    lines = [f"p{n // 4},{40 + n},{'fm'[n % 2]},{n // 4 % 2}" for n in range(40)]
    house.write("who,age,sex,diagnosis\n" + "\n".join(lines) + "\n")
    study = plain_study({"privacy": PRIVATE})
    house.approve(study)

    by_patient = house.site(data=SOURCE | {"patient": "who"}).load(study.digest())
    by_record = house.site(data=SOURCE).load(study.digest())

    assert by_patient.patients is not None
    assert by_record.patients is not None
    assert 4 * by_patient.patients.number == len(by_patient.parts["train"])
    assert by_record.patients.number == len(by_record.parts["train"])
