"""Where the guarantee would not hold, private training does not go on: each case by its name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedward.privacy import privacy_errors
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.privacy_errors import (
    BufferWouldLeave,
    NoGradient,
    NotPerRecord,
    NotThePoissonSample,
    PrivacyError,
    StepsMismatch,
    UntrainableLayer,
)
from fedward.privacy.steps import Batch
from fedward.study.errors import RefusedError
from tests.privacy.private_networks import (
    Ward,
    gradient,
    gradient_of,
    loss,
    network,
    parameters,
    private,
    take,
    ward_of,
)


def prepared(model: nn.Module, gradients: str = "fedward") -> None:
    steps = private(noise_multiplier=1.0, clipping_norm=1.0, gradients=gradients)
    steps.prepare(model, SGD([p for p in model.parameters() if p.requires_grad], lr=0.1))


def all_errors(kind: type[PrivacyError]) -> set[type[PrivacyError]]:
    return {kind}.union(*(all_errors(below) for below in kind.__subclasses__()))


def test_every_one_of_them_is_a_refusal_that_the_tree_names() -> None:
    """What is a refusal reaches the aggregator by its name, and the federation goes on."""
    kinds = all_errors(PrivacyError) - {PrivacyError}
    named = re.findall(r"─ (\w+)  +\w", privacy_errors.__doc__ or "")

    assert sorted(named) == sorted(["PrivacyError", *(kind.__name__ for kind in kinds)])
    for kind in kinds:
        assert issubclass(kind, RefusedError)
        assert str(kind.__doc__).count(".") == 1  # one sentence


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


class Mine(nn.BatchNorm1d):
    """PyTorch's own under another name."""


class MyInstanceNorm(nn.InstanceNorm1d):
    """PyTorch's own under another name."""


class MyLSTM(nn.LSTM):
    """PyTorch's own under another name."""


class OtherLSTM(nn.LSTM):
    """One that computes something else, by itself."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = super().forward(inputs * 2)[0]
        return found


class OtherGRU(nn.GRU):
    """One that computes something else, by itself."""

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        found: Tensor = super().forward(inputs * 2)[0]
        return found


def bare(kind: Callable[..., nn.Module]) -> nn.Module:
    """A layer without parameters and without buffers."""
    return kind(4, affine=False, track_running_stats=False)


def kept(kind: Callable[..., nn.Module]) -> nn.Module:
    """A layer without parameters, which remembers its records."""
    return kind(4, affine=False, track_running_stats=True)


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
    (lambda: nn.LSTM(3, 4, proj_size=2), "LSTM"),
    (lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True), "add_bias_kv"),
    (lambda: nn.MultiheadAttention(4, 2, add_zero_attn=True), "add_zero_attn"),
    (lambda: nn.Embedding(5, 4, max_norm=1.0), "max_norm"),
    (lambda: nn.Embedding(5, 4, scale_grad_by_freq=True), "scale_grad_by_freq"),
    (lambda: nn.Sequential(nn.Linear(3, 4), bare(nn.BatchNorm1d)), "BatchNorm1d"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(bare(Mine))), "'1.0', Mine"),
    (lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).requires_grad_(False)), "BatchNorm"),
    (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), bare(nn.SyncBatchNorm)), "SyncBatchNorm"),
    (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), kept(nn.InstanceNorm1d)), "InstanceNorm1d"),
    (lambda: nn.Sequential(nn.Conv1d(3, 4, 1), kept(MyInstanceNorm)), "MyInstanceNorm"),
    (lambda: OtherLSTM(3, 4), "OtherLSTM"),
    (lambda: nn.Sequential(nn.Linear(3, 4), OtherGRU(4, 4)), "'1', OtherGRU"),
]


@pytest.mark.parametrize(("build", "named"), UNTRAINABLE, ids=[named for _, named in UNTRAINABLE])
def test_a_layer_that_mixes_patients_or_cannot_tell_them_apart_is_refused_by_name(
    build: Callable[[], nn.Module], named: str
) -> None:
    with pytest.raises(UntrainableLayer, match=named):
        prepared(build())


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (WithAttention, "MultiheadAttention"),
        (lambda: MyLSTM(3, 4), "MyLSTM"),
        (lambda: nn.LSTM(3, 4, proj_size=2), "LSTM"),
    ],
)
def test_what_only_opacus_cannot_train_is_refused_where_it_is_chosen(
    build: Callable[[], nn.Module], named: str
) -> None:
    with pytest.raises(UntrainableLayer, match=f"{named}.*by Opacus.*gradients = .fedward"):
        prepared(build(), "opacus")


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
@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
def test_a_trainable_parameter_outside_the_graph_is_refused(
    gradients: str, build: Callable[[], nn.Module], sizes: list[int]
) -> None:
    with pytest.raises(NoGradient, match="no gradient for each patient"):
        gradient_of(private(gradients=gradients), build(), ward_of(sizes))


def test_where_it_is_frozen_training_goes_on() -> None:
    model = Unused()
    model.unused.requires_grad_(False)

    assert gradient_of(private(), model, ward_of([4, 1])).norm() > 0


class Positions(nn.Module):
    """A layer that sees each number of a record as if it were a record."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.layer(inputs.reshape(-1, 1))
        return found.reshape(len(inputs), -1, 2).mean(dim=1)


class Together(Positions):
    """A layer that sees all records as one."""

    def forward(self, inputs: Tensor) -> Tensor:
        whole: Tensor = self.layer(inputs.sum().reshape(1, 1))
        return whole.expand(len(inputs), 2)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [4, 1]], ids=["one record each", "ragged"])
@pytest.mark.parametrize("build", [Positions, Together])
@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
def test_a_layer_that_keeps_other_things_apart_than_records_is_refused(
    gradients: str, build: Callable[[], nn.Module], sizes: list[int]
) -> None:
    """Clipped would be what it keeps apart."""
    with pytest.raises(NotPerRecord, match="one entry for each record"):
        gradient_of(private(gradients=gradients), build(), ward_of(sizes))


# --- Samples --------------------------------------------------------------------------------------


def ready(**changes: Any) -> PatientSteps:  # noqa: ANN401
    """Steps that a model is prepared for."""
    steps, model = private(**{"steps": 9, **changes}), network()
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    return steps


def forbidden(outputs: Tensor, labels: Tensor) -> Tensor:
    raise AssertionError("the records were used")


def assert_not_drawn(steps: PatientSteps, ward: Ward, patients: Tensor, why: str) -> None:
    """It is refused before a record is used."""
    with pytest.raises(NotThePoissonSample, match=why):
        steps.gradient(forbidden, ward.inputs, ward.labels, patients)


def test_a_batch_of_ones_own_is_refused() -> None:
    ward = ward_of([2, 1])

    assert_not_drawn(ready(), ward, ward.patients, "not those that were drawn")


@pytest.mark.parametrize("changed", [[0, 0, 1, 1], [0, 0], [0, 1, 1], [0, 0, 2], []])
def test_other_patients_than_were_drawn_are_refused(changed: list[int]) -> None:
    ward, steps = ward_of([2, 1]), ready()
    next(steps.batches(ward.patients))

    assert_not_drawn(steps, ward, torch.tensor(changed, dtype=torch.int64), "not those that were")


def test_an_earlier_batch_is_refused_and_so_is_one_that_was_used() -> None:
    ward, steps = ward_of([3] * 9), ready(sampling_rate=0.5)
    batches = steps.batches(ward.patients)
    first, second = next(batches), next(batches)
    assert not torch.equal(first.patients, second.patients)

    assert_not_drawn(steps, ward.only(first.records), first.patients, "drawn last")
    third = next(batches)
    own = ward.only(third.records)
    steps.gradient(loss, own.inputs, own.labels, third.patients)
    assert_not_drawn(steps, own, third.patients, "drawn last")


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 2, 2], []])
def test_other_records_than_the_batch_has_are_refused(kept: list[int]) -> None:
    ward, steps = ward_of([2, 1]), ready()
    batch = next(steps.batches(ward.patients))

    assert_not_drawn(steps, ward.only(torch.tensor(kept).long()), batch.patients, "other records")


@pytest.mark.parametrize(
    ("faulty", "why"), [([0, 1, 0], "ascending"), ([0, 0, 0, 1], "more records than")]
)
def test_a_sampler_with_a_fault_is_refused(
    faulty: list[int], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patient who comes twice is clipped twice, and one with more than K is not as charged."""
    patients = torch.tensor(faulty)
    batch = Batch(torch.arange(len(faulty)), patients)
    monkeypatch.setattr("fedward.privacy.patient_steps.at_most", lambda *_: batch)
    ward, steps = ward_of([len(faulty)]), ready(records_per_patient=2)
    next(steps.batches(patients))

    assert_not_drawn(steps, ward, patients, why)


def test_who_changes_a_batch_changes_not_what_was_drawn() -> None:
    ward, steps = ward_of([2, 1]), ready()
    batch = next(steps.batches(ward.patients))
    batch.patients[:] = torch.arange(3)

    assert_not_drawn(steps, ward, batch.patients, "not those that were drawn")


# --- Steps ----------------------------------------------------------------------------------------


def taken(count: int, *, charged: int) -> nn.Module:
    model, ward = network(), ward_of([2, 1])
    steps = private(noise_multiplier=1.0, clipping_norm=1.0, steps=charged)
    optimizer = SGD(model.parameters(), lr=0.1)
    steps.prepare(model, optimizer)
    for _ in range(count):
        take(steps, ward)
        optimizer.step()
    steps.finish()
    return model


@pytest.mark.parametrize("charged", [1, 2, 7])
def test_as_many_steps_as_were_charged_may_be_taken(charged: int) -> None:
    assert not torch.equal(parameters(taken(charged, charged=charged)), parameters(network()))


@pytest.mark.parametrize(("count", "charged"), [(0, 1), (1, 2), (6, 7), (2, 1), (3, 2), (8, 7)])
def test_one_step_less_or_more_is_refused_with_both_numbers(count: int, charged: int) -> None:
    with pytest.raises(StepsMismatch, match=f"{count} steps were taken, and {charged} are charged"):
        taken(count, charged=charged)


def test_the_step_that_was_not_charged_is_not_taken() -> None:
    """Nothing is computed of a record that nobody paid for."""
    ward, model = ward_of([2, 1]), network()
    steps = private(steps=1)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    take(steps, ward)
    before = gradient(model)

    with pytest.raises(StepsMismatch):
        take(steps, ward, forbidden)
    assert torch.equal(gradient(model), before)


def test_each_round_counts_its_own_steps() -> None:
    steps = private(steps=2)
    for _ in range(2):
        model, ward = copy.deepcopy(network()), ward_of([2, 1])
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        for _ in range(2):
            take(steps, ward)
        steps.finish()
