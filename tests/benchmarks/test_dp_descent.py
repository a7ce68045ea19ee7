"""The NumPy descent that settings are chosen with does what a hospital's private steps do."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedward.client.data.records import Records
from fedward.client.training import train
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.secret_stream import SecretStream
from fedward.study.study import Study, parse_study
from tests.benchmarks.conftest import ModuleNamed
from tests.conftest import ValuesWith

NORM, ROUNDS, RATE, DECAY = 0.3, 4, 0.7, 0.02
SIZES = (12, 5)  # patients of two hospitals


@pytest.fixture
def descent(module_named: ModuleNamed) -> ModuleType:
    return module_named("dp_descent")


@pytest.fixture
def study(values_with: ValuesWith) -> Study:
    values = values_with(
        {
            "model.hidden": [],
            "training.local_steps": 1,
            "training.learning_rate": RATE,
            "training.weight_decay": DECAY,
            "data.features": {name: {} for name in "abc"},
        }
    )
    del values["training"]["local_epochs"]
    return settled(parse_study(values))


def records_of(patients: int, each: int, rng: np.random.Generator) -> Records:
    names = np.repeat(np.arange(patients), rng.integers(1, each + 1, patients))
    inputs = rng.normal(size=(len(names), 3)).astype(np.float32)
    labels = torch.from_numpy(rng.integers(0, 2, len(names)))
    return Records(torch.from_numpy(inputs), labels, torch.from_numpy(names))


def private(patients: int, sigma: float, seed: int, *, rate: float = 1.0) -> PatientSteps:
    streams = [SecretStream.pretended(seed, patients, what) for what in ("sample", "noise")]
    return PatientSteps(
        noise_multiplier=sigma,
        clipping_norm=NORM,
        sampling_rate=rate,
        records_per_patient=8,
        divisor=max(1.0, rate * patients),
        steps=1,
        sampling=streams[0],
        noise=streams[1],
    )


def federated(
    study: Study, hospitals: list[Records], sigma: float, seed: int = 0
) -> NDArray[np.float64]:
    """Second output's weights less the first's after all rounds, the bias last."""
    model = build(study, seed=0)
    for number in range(ROUNDS):
        before = {name: entry.clone() for name, entry in model.state_dict().items()}
        after = {name: torch.zeros_like(entry) for name, entry in before.items()}
        for records in hospitals:
            patients = len(records.patients.unique())
            model.load_state_dict(before)
            here = build(study, seed=0)
            here.load_state_dict(before)
            steps = private(patients, sigma, seed * ROUNDS + number)
            train(here, records, study, task_of(study), steps)
            for name, entry in here.state_dict().items():
                after[name] += entry * patients / sum(SIZES)
        model.load_state_dict(after)
    return difference_of(model)


def difference_of(model: torch.nn.Module) -> NDArray[np.float64]:
    weight, bias = (entry.double().numpy() for entry in model.state_dict().values())
    difference: NDArray[np.float64] = np.concatenate([weight[1] - weight[0], [bias[1] - bias[0]]])
    return difference


@pytest.mark.parametrize("each", [1, 6])
def test_without_noise_the_weights_are_the_same(
    descent: ModuleType, study: Study, each: int
) -> None:
    rng = np.random.default_rng(each)
    hospitals = [records_of(size, each, rng) for size in SIZES]
    setting = descent.Setting(ROUNDS, RATE, NORM, DECAY, 1.0, 8)
    mirrored = [
        descent.Hospital(one.whole.numpy(), one.whole_labels.numpy(), one.patients.numpy())
        for one in hospitals
    ]
    start = difference_of(build(study, seed=0))[:, None]

    found = descent.descend(mirrored, setting, start, sigma=0.0, rng=rng)
    expected = federated(study, hospitals, sigma=1e-9)

    assert np.linalg.norm(expected - start[:, 0]) > 0.1
    assert found[:, 0] == pytest.approx(expected, abs=1e-5)


def test_the_noise_is_as_wide(descent: ModuleType, study: Study) -> None:
    rng = np.random.default_rng(1)
    hospitals = [records_of(size, 1, rng) for size in SIZES]
    setting = descent.Setting(ROUNDS, RATE, NORM, DECAY)
    mirrored = [
        descent.Hospital(one.whole.numpy(), one.whole_labels.numpy(), one.patients.numpy())
        for one in hospitals
    ]
    start = np.repeat(difference_of(build(study, seed=0))[:, None], 4000, axis=1)

    found = descent.descend(mirrored, setting, start, sigma=20.0, rng=rng)
    expected = np.array([federated(study, hospitals, sigma=20.0, seed=s) for s in range(60)])

    assert found.std(axis=1).mean() == pytest.approx(
        expected.std(axis=0, ddof=1).mean(), rel=3 / math.sqrt(2 * expected.size)
    )


def test_a_patient_brings_at_most_k_records_and_comes_as_often_as_the_rate(
    descent: ModuleType,
) -> None:
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 5)
    setting = descent.Setting(1, RATE, NORM, DECAY, 0.25, 2)
    samples = [descent._sampled(patients, setting, rng) for _ in range(400)]

    counts = [np.unique(patients[sample], return_counts=True)[1] for sample in samples]
    assert {n for count in counts for n in count} == {2}
    assert np.mean([len(count) for count in counts]) == pytest.approx(10, abs=0.6)
    assert len(np.unique(np.concatenate(samples))) == len(patients)
