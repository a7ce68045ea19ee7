"""Private steps as a whole: SGD where nothing is hidden, the charged noise where something is."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.secret_stream import SecretStream
from tests.privacy.private_networks import (
    NETWORKS,
    Ward,
    clipped_means,
    gradient,
    gradient_of,
    loss,
    network,
    parameters,
    private,
    take,
    ward_of,
)

RATE = 0.3
"""Of learning."""


def run(steps: PatientSteps, model: nn.Module, ward: Ward) -> nn.Module:
    """A copy of the model after all steps, as the training loop takes them."""
    model = copy.deepcopy(model)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=RATE)
    steps.prepare(model, optimizer)
    for batch in steps.batches(ward.patients):
        inputs, labels = ward.inputs[batch.records], ward.labels[batch.records]
        steps.gradient(loss, inputs, labels, batch.patients)
        optimizer.step()
    steps.finish()
    return model


def shuffled(ward: Ward, seed: int = 0) -> Ward:
    """The same records as a file has them, in any order."""
    order = torch.randperm(len(ward.patients), generator=torch.Generator().manual_seed(seed))
    return ward.only(order)


# --- SGD, where nothing is clipped and no noise is added ------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_with_one_record_a_patient_and_nothing_hidden_they_are_full_batch_sgd(name: str) -> None:
    ward, model = ward_of([1] * 12, name), network(name)
    expected = copy.deepcopy(model)
    optimizer = SGD(expected.parameters(), lr=RATE)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(expected(ward.inputs), ward.labels).backward()
        optimizer.step()

    found = run(private(divisor=12, steps=5), model, shuffled(ward))

    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)
    assert not torch.allclose(parameters(found), parameters(model), atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_patient_weighs_the_same_however_many_records_there_are(name: str) -> None:
    """SGD on the mean over patients of the mean over their records."""
    ward, model = shuffled(ward_of([9, 1, 3], name)), network(name)
    expected = copy.deepcopy(model)
    optimizer = SGD(expected.parameters(), lr=RATE)
    for _ in range(4):
        optimizer.zero_grad()
        each = loss(expected(ward.inputs), ward.labels)
        torch.stack([each[ward.patients == p].mean() for p in ward.everybody()]).mean().backward()
        optimizer.step()

    found = run(private(divisor=3, steps=4), model, ward)

    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_round_is_dp_sgd_by_its_definition_on_what_was_sampled(name: str) -> None:
    """Ragged patients, some left out, at most two records each, in small pieces, empty batches."""
    ward = shuffled(ward_of([9, 1, 3, 2], name, size=3.0, dtype=torch.float64))
    model = network(name, dtype=torch.float64)
    plan = {"steps": 20, "sampling_rate": 0.3, "records_per_patient": 2, "clipping_norm": 0.4}
    batches = list(private(3, **plan).batches(ward.patients))
    expected = copy.deepcopy(model)
    for batch in batches:
        step = clipped_means(expected, ward.only(batch.records), 0.4).sum(dim=0) / 1.2
        for p, change in zip(
            expected.parameters(),
            step.split([p.numel() for p in expected.parameters()]),
            strict=True,
        ):
            p.data -= RATE * change.view_as(p)

    found = run(private(3, divisor=1.2, at_once=3, **plan), model, ward)

    assert {len(batch.patients.unique()) for batch in batches} >= {0, 1, 2}
    assert torch.allclose(parameters(found), parameters(expected), atol=1e-5)
    assert not torch.allclose(parameters(found), parameters(model), atol=1e-2)


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": 0.1, "clipping_norm": 1.0}, {"clipping_norm": 1e-3}]
)
def test_noise_or_clipping_makes_a_difference(change: dict[str, float]) -> None:
    ward = ward_of([1] * 12)

    without, found = (
        run(private(divisor=12, steps=5, **changes), network(), ward) for changes in ({}, change)
    )

    assert not torch.allclose(parameters(found), parameters(without), atol=1e-3)


def test_the_same_streams_give_the_same_steps_and_others_give_others() -> None:
    ward = ward_of([4, 1, 2, 2])
    plan = {"noise_multiplier": 1.0, "clipping_norm": 1.0, "sampling_rate": 0.5, "steps": 5}

    one, again, other = (parameters(run(private(s, **plan), network(), ward)) for s in (1, 1, 2))

    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-3)


# --- Noise ----------------------------------------------------------------------------------------

NOBODY = Ward(
    torch.zeros(0, 100),
    torch.zeros(0, dtype=torch.int64),
    torch.zeros(0, dtype=torch.int64),
)


def noises(count: int, **changes: float) -> Tensor:
    """Gradients of empty batches, shape (count, parameters)."""
    model = nn.Linear(100, 20)
    steps = private(steps=count, **changes)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    found = []
    for _ in range(count):
        take(steps, NOBODY)
        found.append(gradient(model))
    return torch.stack(found)


@pytest.mark.parametrize(
    ("sigma", "bound", "divisor"), [(1.0, 1.0, 1.0), (2.0, 0.5, 4.0), (0.7, 3.0, 25.0)]
)
def test_the_noise_has_the_charged_standard_deviation(
    sigma: float, bound: float, divisor: float
) -> None:
    expected = sigma * bound / divisor

    found = noises(20, noise_multiplier=sigma, clipping_norm=bound, divisor=divisor).flatten()

    assert len(found) == 20 * 2020
    assert found.std().item() == pytest.approx(expected, rel=0.02)
    assert found.mean().item() == pytest.approx(0, abs=0.02 * expected)
    assert stats.kstest(found.numpy() / expected, "norm").pvalue > 1e-3


def test_every_step_and_every_parameter_has_noise_of_its_own() -> None:
    found = noises(40, noise_multiplier=1.0, clipping_norm=1.0)

    assert len(np.unique(found.numpy())) > 0.99 * found.numel()
    between_steps = np.corrcoef(found.numpy()) - np.eye(40)
    assert np.abs(between_steps).max() < 0.15


def test_noise_sum_and_quotient_are_rounded_once() -> None:
    """Rounded before they are divided, they would be another number here and there."""
    model, steps = (
        nn.Linear(100, 20),
        private(5, noise_multiplier=1.3, clipping_norm=0.7, divisor=3),
    )
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    stream = SecretStream.pretended(5, "noise")
    exact = stream.noisy(torch.zeros(2020, dtype=torch.float64), 1.3 * 0.7)

    take(steps, NOBODY)

    assert torch.equal(gradient(model), (exact / 3).float())
    assert not torch.equal(exact.float() / 3, (exact / 3).float())


def test_no_parameter_s_noise_tells_of_another_s() -> None:
    """Neither in the same step nor in the one after it, place by place."""
    count, size = 60, 20
    model = nn.Sequential(*(nn.Linear(size, size) for _ in range(3)))
    steps = private(steps=count, noise_multiplier=1.0, clipping_norm=1.0)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    drawn: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for _ in range(count):
        take(steps, replace(NOBODY, inputs=torch.zeros(0, size)))
        for name, p in model.named_parameters():
            assert p.grad is not None
            drawn[name].append(p.grad.flatten().clone())

    for kind in ("weight", "bias"):
        noise = [torch.stack(v) for name, v in drawn.items() if name.endswith(kind)]
        limit = 4.5 / np.sqrt(noise[0][1:].numel())
        for one, other in permutations(noise, 2):
            for late in (0, 1):
                pair = torch.stack([one[late:].flatten(), other[: count - late].flatten()])
                assert abs(float(torch.corrcoef(pair)[0, 1])) < limit


def test_the_noise_is_the_same_whatever_the_records_are() -> None:
    ward = ward_of([3, 1, 2])
    noisy, clean = (
        gradient_of(private(noise_multiplier=sigma, clipping_norm=1.0), network(), ward)
        for sigma in (2.0, 0.0)
    )
    nobody = ward.only(ward.patients < 0)
    alone = gradient_of(private(noise_multiplier=2.0, clipping_norm=1.0), network(), nobody)

    assert alone.norm() > 1
    assert torch.allclose(noisy - clean, alone, atol=1e-5)


def test_an_empty_batch_makes_a_step_of_noise_only() -> None:
    model = nn.Linear(100, 2)
    before = parameters(model).clone()
    optimizer = SGD(model.parameters(), lr=0.1)
    steps = private(noise_multiplier=1.0, clipping_norm=1.0)
    steps.prepare(model, optimizer)

    take(steps, NOBODY)
    optimizer.step()

    assert (parameters(model) != before).all()


def test_a_study_whose_batches_are_all_empty_runs_to_its_end() -> None:
    steps = private(sampling_rate=1e-9, noise_multiplier=1.0, clipping_norm=1.0, steps=5)

    found = run(steps, network(), ward_of([1, 3]))

    assert parameters(found).isfinite().all()
    assert not torch.allclose(parameters(found), parameters(network()))


def test_nobodys_warnings_are_silenced() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = list(warnings.filters)

        run(private(), network(), ward_of([1, 3]))

        assert list(warnings.filters) == before


# --- What is not trained --------------------------------------------------------------------------


def test_a_frozen_layer_is_left_alone() -> None:
    ward, model = ward_of([3, 1, 2]), network()
    first = next(model.children())
    first.requires_grad_(False)
    before = parameters(model)

    found = run(private(noise_multiplier=1.0, clipping_norm=1.0), model, ward)

    changed = parameters(found) != before
    frozen = sum(p.numel() for p in first.parameters())
    assert not changed[:frozen].any()
    assert changed[frozen:].all()
