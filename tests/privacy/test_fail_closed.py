"""Where the guarantee would not hold, private training does not go on: each case by its name."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedward.privacy.privacy_errors import (
    BufferWouldLeave,
    NoGradient,
    PrivacyError,
    StepsMismatch,
    UntrainableLayer,
)
from fedward.study.errors import RefusedError
from tests.privacy.private_networks import (
    gradient,
    gradient_of,
    loss,
    network,
    parameters,
    private,
    ward_of,
)


def prepared(model: nn.Module) -> None:
    steps = private(noise_multiplier=1.0, clipping_norm=1.0)
    steps.prepare(model, SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))


def all_errors(kind: type[PrivacyError]) -> set[type[PrivacyError]]:
    return {kind}.union(*(all_errors(below) for below in kind.__subclasses__()))


def test_every_one_of_them_is_a_refusal() -> None:
    """What is a refusal reaches the aggregator by its name, and the federation goes on."""
    assert len(all_errors(PrivacyError)) >= 10
    assert all(issubclass(kind, RefusedError) for kind in all_errors(PrivacyError))


# --- Layers ---------------------------------------------------------------------------------------


class WithAttention(nn.Module):
    """PyTorch's own attention, whose one large matrix keeps no gradient for each patient."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        seen, _ = self.attention(inputs, inputs, inputs)
        found: Tensor = self.head(seen.mean(dim=1))
        return found


UNTRAINABLE: list[tuple[Callable[[], nn.Module], str]] = [
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), "BatchNorm"),
    (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        "BatchNorm",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.BatchNorm2d(4)), nn.Flatten()),
        "BatchNorm",
    ),
    (lambda: nn.LSTM(3, 4), "LSTM"),
    (lambda: nn.GRU(3, 4), "GRU"),
    (WithAttention, "MultiheadAttention"),
]


@pytest.mark.parametrize(("build", "named"), UNTRAINABLE, ids=[named for _, named in UNTRAINABLE])
def test_a_layer_that_mixes_patients_or_cannot_tell_them_apart_is_refused_by_name(
    build: Callable[[], nn.Module], named: str
) -> None:
    with pytest.raises(UntrainableLayer, match=named):
        prepared(build())


def test_a_model_that_is_not_in_training_is_refused() -> None:
    """Nothing is kept apart where a model is only judged."""
    with pytest.raises(UntrainableLayer, match="training mode"):
        prepared(network().eval())


# --- Numbers that are no parameters ---------------------------------------------------------------


class Remembering(nn.Module):
    """A layer that adds up what it has seen."""

    def __init__(self, *, kept: bool) -> None:
        super().__init__()
        self.total: Tensor
        self.register_buffer("total", torch.zeros(3), persistent=kept)
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        self.total += inputs.detach().sum(dim=0)
        found: Tensor = self.layer(inputs)
        return found


BUFFERS: list[tuple[Callable[[], nn.Module], str]] = [
    (
        lambda: nn.Sequential(
            nn.Conv1d(3, 3, 1), nn.InstanceNorm1d(3, affine=False, track_running_stats=True)
        ),
        "1.running_mean",
    ),
    (lambda: Remembering(kept=True), "total"),
    (lambda: Remembering(kept=False), "total"),
    (lambda: nn.Sequential(nn.Linear(3, 3), Remembering(kept=True)), "1.total"),
]


@pytest.mark.parametrize(("build", "named"), BUFFERS)
def test_running_numbers_are_refused_by_name(build: Callable[[], nn.Module], named: str) -> None:
    with pytest.raises(BufferWouldLeave, match=f"'{named}' would leave"):
        prepared(build())


class Chosen(nn.Module):
    """Some of the inputs, whose places are a buffer of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Tensor
        self.register_buffer("places", torch.tensor([2, 0]))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs[:, self.places]


def test_a_constant_of_whole_numbers_does_not_travel_and_may_stay() -> None:
    found = gradient_of(private(), nn.Sequential(Chosen(), nn.Linear(2, 2)), ward_of([3, 1]))

    assert found.norm() > 0


# --- Gradients ------------------------------------------------------------------------------------


class Unused(nn.Module):
    """A layer that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


class Cut(nn.Module):
    """A layer whose output is cut off the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.above = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.above(self.below(inputs).detach())
        return found


@pytest.mark.parametrize("sizes", [[1, 1, 1], [4, 1]], ids=["one record each", "ragged"])
@pytest.mark.parametrize("build", [Unused, Cut])
def test_a_trainable_parameter_outside_the_graph_is_refused(
    build: Callable[[], nn.Module], sizes: list[int]
) -> None:
    with pytest.raises(NoGradient, match="no gradient for each patient"):
        gradient_of(private(), build(), ward_of(sizes))


def test_where_it_is_frozen_training_goes_on() -> None:
    model = Unused()
    model.unused.requires_grad_(False)

    assert gradient_of(private(), model, ward_of([4, 1])).norm() > 0


# --- Steps ----------------------------------------------------------------------------------------


def take(steps_taken: int, *, charged: int) -> nn.Module:
    model, ward = network(), ward_of([2, 1])
    steps = private(noise_multiplier=1.0, clipping_norm=1.0, steps=charged)
    optimizer = SGD(model.parameters(), lr=0.1)
    steps.prepare(model, optimizer)
    for _ in range(steps_taken):
        steps.gradient(loss, ward.inputs, ward.labels, ward.patients)
        optimizer.step()
    steps.finish()
    return model


@pytest.mark.parametrize("charged", [1, 2, 7])
def test_as_many_steps_as_were_charged_may_be_taken(charged: int) -> None:
    assert not torch.equal(parameters(take(charged, charged=charged)), parameters(network()))


@pytest.mark.parametrize(("taken", "charged"), [(0, 1), (1, 2), (6, 7), (2, 1), (3, 2), (8, 7)])
def test_one_step_less_or_more_is_refused_with_both_numbers(taken: int, charged: int) -> None:
    with pytest.raises(StepsMismatch, match=f"{taken} steps were taken, and {charged} are charged"):
        take(taken, charged=charged)


def test_the_step_that_was_not_charged_is_not_taken() -> None:
    """Nothing is computed of a record that nobody paid for."""
    ward, model = ward_of([2, 1]), network()
    steps = private(steps=1)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    steps.gradient(loss, ward.inputs, ward.labels, ward.patients)
    before = gradient(model)

    def forbidden(outputs: Tensor, labels: Tensor) -> Tensor:
        raise AssertionError("the records were used")

    with pytest.raises(StepsMismatch):
        steps.gradient(forbidden, ward.inputs, ward.labels, ward.patients)
    assert torch.equal(gradient(model), before)


def test_each_round_counts_its_own_steps() -> None:
    steps = private(steps=2)
    for _ in range(2):
        model, ward = copy.deepcopy(network()), ward_of([2, 1])
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        for _ in range(2):
            steps.gradient(loss, ward.inputs, ward.labels, ward.patients)
        steps.finish()
