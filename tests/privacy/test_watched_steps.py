"""The watcher of private steps: it changes nothing, and it sees what can be seen."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.privacy_errors import StepsMismatch
from fedward.privacy.steps import LocalSteps
from fedward.privacy.watched_steps import Evidence, Suspects, WatchedSteps
from tests.privacy.private_networks import (
    NETWORKS,
    Ward,
    clipped_means,
    loss,
    network,
    parameters,
    private,
    ward_of,
)

SIZES = (1, 3, 2, 5, 1)


class Notes(Evidence):
    """Evidence that also keeps what it was told."""

    def __init__(self, canaries: int) -> None:
        super().__init__(canaries)
        self.gradients: list[Tensor] = []
        self.released: list[Tensor] = []

    def add(self, gradients: Sequence[Tensor], released: Sequence[Tensor], rate: float) -> None:
        self.gradients.append(torch.cat([*gradients], dim=1))
        self.released.append(torch.cat([*released]))
        super().add(gradients, released, rate)


def test_who_makes_the_model_overflow_counts_as_zero_as_in_the_steps() -> None:
    ward, model, notes = ward_of([3, 1, 2]), network(), Notes(2)
    ward.inputs[3] = math.nan
    steps = WatchedSteps(private(clipping_norm=0.5), suspects_of(ward, 2), notes)

    run(steps, model, ward)

    (gradients,), (released,) = notes.gradients, notes.released
    assert not gradients[1].any()
    assert torch.allclose(gradients.sum(dim=0), released, atol=1e-5)
    assert released.norm() > 0.1


def suspects_of(ward: Ward, canaries: int) -> Suspects:
    _, numbers = ward.patients.unique(return_inverse=True)
    return Suspects(ward.inputs, ward.labels, numbers, canaries)


def run(steps: LocalSteps, model: nn.Module, ward: Ward, rate: float = 0.3) -> nn.Module:
    model = copy.deepcopy(model)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=rate)
    steps.prepare(model, optimizer)
    for batch in steps.batches(ward.patients):
        chosen = batch.records
        steps.gradient(loss, ward.inputs[chosen], ward.labels[chosen], batch.patients)
        optimizer.step()
    steps.finish()
    return model


def noisy() -> PatientSteps:
    return private(noise_multiplier=1.0, clipping_norm=0.7, sampling_rate=0.5, divisor=3.0, steps=4)


# --- It changes nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_watched_steps_train_the_same_model_bit_for_bit(name: str) -> None:
    ward, model = ward_of(SIZES, name), network(name)

    unwatched = run(noisy(), model, ward)
    watched = run(WatchedSteps(noisy(), suspects_of(ward, 2), Evidence(2)), model, ward)

    assert torch.equal(parameters(watched), parameters(unwatched))
    assert not torch.equal(parameters(watched), parameters(model))


def test_a_network_with_dropout_draws_the_same_features() -> None:
    ward = ward_of(SIZES)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    found = []
    for steps in (noisy(), WatchedSteps(noisy(), suspects_of(ward, 2), Evidence(2))):
        torch.manual_seed(5)
        found.append(parameters(run(steps, model, ward)))

    assert torch.equal(*found)


def test_steps_that_are_not_as_charged_are_still_refused() -> None:
    ward, model = ward_of(SIZES), network()
    steps = WatchedSteps(noisy(), suspects_of(ward, 2), Evidence(2))
    steps.prepare(model, SGD(model.parameters(), lr=0.1))

    with pytest.raises(StepsMismatch):
        steps.finish()


# --- What it computes -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bound", [0.05, 1e6])
def test_its_gradients_are_the_patients(name: str, bound: float) -> None:
    ward, model, notes = ward_of(SIZES, name), network(name), Notes(2)
    steps = WatchedSteps(private(clipping_norm=bound), suspects_of(ward, 2), notes)

    run(steps, model, ward)

    expected = clipped_means(model, ward, bound)
    assert torch.allclose(notes.gradients[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_noise_their_sum_is_what_every_step_releases(name: str) -> None:
    ward, notes = ward_of(SIZES, name), Notes(2)
    steps = private(clipping_norm=0.3, divisor=7.0, steps=3)

    run(WatchedSteps(steps, suspects_of(ward, 2), notes), network(name), ward)

    for gradients, released in zip(notes.gradients, notes.released, strict=True):
        assert torch.allclose(gradients.sum(dim=0), released, rtol=1e-3, atol=1e-4)


def test_frozen_weights_are_left_out() -> None:
    ward, notes = ward_of(SIZES), Notes(2)
    model = network()
    first = next(model.parameters())
    first.requires_grad = False

    run(WatchedSteps(noisy(), suspects_of(ward, 2), notes), model, ward)

    trained = sum(p.numel() for p in model.parameters()) - first.numel()
    assert notes.gradients[0].shape == (len(SIZES), trained)
    assert notes.released[0].shape == (trained,)


# --- What it sees ---------------------------------------------------------------------------------


def scores_of(
    *,
    noise: tuple[float, float] = (0.0, 0.0),
    rate: float = 0.5,
    weight: float = 1.0,
    steps: int = 20,
    length: float = 1.0,
    dimensions: tuple[int, int] = (300, 60),
    canaries: int = 40,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Scores after steps over 30 patients and some canaries with random gradients; who was there.

    Args:
        noise: Standard deviation of the noise in each of two parameters.
        rate: Probability of a patient in a step.
        weight: How many times a canary counts.
        steps: How many.
        length: Norm of a gradient.
        dimensions: Weights of the two parameters.
        canaries: How many.
        seed: Of what is random.
    """
    source = torch.Generator().manual_seed(seed)
    evidence, known = Evidence(canaries), 30
    included = torch.rand(canaries, generator=source) < 0.5
    there = torch.cat([torch.ones(known), weight * included])
    for _ in range(steps):
        whole = torch.randn(known + canaries, sum(dimensions), generator=source)
        gradients = (length * whole / whole.norm(dim=1, keepdim=True)).split(dimensions, dim=1)
        drawn = there * (torch.rand(len(there), generator=source) < rate)
        released = [
            drawn @ g + sigma * torch.randn(g.shape[1], generator=source)
            for g, sigma in zip(gradients, noise, strict=True)
        ]
        evidence.add(gradients, released, rate)
    return evidence.scores(), included


def separated(scores: Tensor, included: Tensor) -> bool:
    return bool(scores[included].min() > scores[~included].max())


def advantage(scores: Tensor, included: Tensor) -> float:
    """Probability that a canary who was there scores above one who was not."""
    return float((scores[included][:, None] > scores[~included]).double().mean())


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("length", [0.01, 1.0, 100.0])
def test_without_noise_everybody_is_found(rate: float, length: float) -> None:
    assert separated(*scores_of(rate=rate, length=length, steps=60))


@pytest.mark.parametrize("noise", [(0.0, 5.0), (5.0, 0.0)])
def test_one_parameter_without_noise_gives_everybody_away(noise: tuple[float, float]) -> None:
    assert separated(*scores_of(noise=noise, steps=60))


def test_under_much_noise_scores_say_little() -> None:
    found = [advantage(*scores_of(noise=(9.0, 9.0), seed=seed)) for seed in range(20)]

    assert 0.45 < sum(found) / len(found) < 0.75


def test_under_the_same_noise_canaries_that_count_more_are_found() -> None:
    once = advantage(*scores_of(noise=(3.0, 3.0)))
    often = advantage(*scores_of(noise=(3.0, 3.0), weight=30.0))

    assert once < 0.95
    assert often > 0.99


def test_scores_are_as_good_as_the_best_test_where_gradients_do_not_overlap() -> None:
    """One step, everybody drawn, canaries along the axes: the best score is the coordinate."""
    canaries, sigma = 50, 2.0
    source = torch.Generator().manual_seed(1)
    included = torch.rand(canaries, generator=source) < 0.5
    axes, evidence = torch.eye(canaries, 400), Evidence(canaries)
    released = included.float() @ axes + sigma * torch.randn(400, generator=source)

    evidence.add([axes], [released], 1.0)

    assert torch.equal(evidence.scores().argsort(), released[:canaries].argsort())


# --- What it can cope with ------------------------------------------------------------------------


def test_there_may_be_more_canaries_than_weights() -> None:
    scores, included = scores_of(dimensions=(20, 4), canaries=60, steps=30)

    assert scores.isfinite().all()
    assert advantage(scores, included) > 0.8


def test_gradients_of_nobody_say_nothing() -> None:
    evidence = Evidence(3)

    evidence.add([torch.zeros(5, 7)], [torch.zeros(7)], 0.5)

    assert evidence.scores().tolist() == [0, 0, 0]


def test_before_the_first_step_nothing_is_known() -> None:
    assert Evidence(2).scores().tolist() == [0, 0]
