"""The gradient of a private step is DP-SGD's over patients: known, bounded, and never torn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from tests.privacy.private_networks import (
    ALL,
    NETWORKS,
    Ward,
    clipped_means,
    gradient,
    gradient_of,
    network,
    private,
    take,
    ward_of,
)

EXACT = torch.float64
sizes_of_patients = st.lists(st.integers(1, 7), min_size=1, max_size=5)
some_seed = st.integers(0, 10_000)


# --- What it is -----------------------------------------------------------------------------------


def assert_by_definition(
    name: str,
    ward: Ward,
    seed: int,
    bound: float,
    near: float,
    at_once: int = ALL,
    gradients: str = "fedward",
) -> None:
    """Compare with a loop of plain autograd over the patients."""
    model = network(name, seed, ward.inputs.dtype)
    each = clipped_means(model, ward, bound)

    steps = private(clipping_norm=bound, at_once=at_once, gradients=gradients)
    found = gradient_of(steps, model, ward)

    assert (found - each.sum(dim=0)).norm() <= near * each.norm(dim=1).sum() + 1e-12


@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=15)
@given(
    sizes=sizes_of_patients,
    seed=some_seed,
    size=st.sampled_from([0.1, 1.0, 30.0]),
    bound=st.sampled_from([0.01, 0.5, 5.0, 1e6]),
    at_once=st.sampled_from([1, 4, ALL]),
)
def test_it_is_the_sum_over_patients_of_the_clipped_mean_over_their_records(
    name: str, gradients: str, sizes: list[int], seed: int, size: float, bound: float, at_once: int
) -> None:
    ward = ward_of(sizes, name, seed, size=size, dtype=EXACT)

    assert_by_definition(name, ward, seed, bound, near=1e-10, at_once=at_once, gradients=gradients)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bound", [0.05, 1e6])
def test_it_is_that_in_the_precision_of_training_too(name: str, bound: float) -> None:
    for seed, sizes in enumerate(([1], [4, 1, 9], [1] * 8, [30, 2])):
        assert_by_definition(name, ward_of(sizes, name, seed), seed, bound, near=1e-5)


def test_a_patient_without_records_in_the_batch_adds_nothing() -> None:
    ward = ward_of([4, 3, 5], dtype=EXACT)
    model = network(dtype=EXACT)
    each = clipped_means(model, ward, 0.3)

    for left_out, patient in enumerate(ward.everybody()):
        found = gradient_of(private(clipping_norm=0.3), model, ward.without(patient))

        others = [number for number in range(3) if number != left_out]
        assert torch.allclose(found, each[others].sum(dim=0), atol=1e-6)


@pytest.mark.parametrize("at_once", [1, ALL])
def test_a_batch_without_patients_adds_up_to_nothing(at_once: int) -> None:
    nobody = ward_of([2, 3]).only(torch.zeros(0, dtype=torch.int64))
    model = network()

    found = gradient_of(private(clipping_norm=1.0, at_once=at_once), model, nobody)

    assert len(found) == sum(p.numel() for p in model.parameters())
    assert not found.any()


def test_a_patient_with_one_record_twice_counts_as_a_patient_with_it_once() -> None:
    once = ward_of([1, 1])
    twice = once.only(torch.tensor([0, 0, 0, 1]))

    one, other = (gradient_of(private(clipping_norm=0.1), network(), w) for w in (once, twice))

    assert torch.allclose(one, other, atol=1e-6)


def test_a_large_gradient_is_cut_to_the_bound_and_keeps_its_direction() -> None:
    model = network()
    ward = ward_of([3], size=100.0)
    wrong = Ward(ward.inputs, 1 - model(ward.inputs).argmax(dim=1), ward.patients)
    free = gradient_of(private(), model, wrong)
    assert free.norm() > 10

    cut = gradient_of(private(clipping_norm=0.5), model, wrong)

    assert cut.norm().item() == pytest.approx(0.5, rel=1e-3)
    assert functional.cosine_similarity(cut, free, dim=0).item() == pytest.approx(1, abs=1e-5)


def test_a_small_gradient_is_left_as_it_is() -> None:
    ward = ward_of([3])
    free = gradient_of(private(), network(), ward)

    same = gradient_of(private(clipping_norm=float(free.norm()) * 1.01), network(), ward)

    assert torch.allclose(same, free, atol=1e-6)


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_the_divisor_is_the_public_one_whatever_batch_and_rate_are(rate: float) -> None:
    ward = ward_of([2])
    double = Ward(
        ward.inputs.repeat(2, 1),
        ward.labels.repeat(2),
        torch.cat([ward.patients, ward.patients + 1]),
    )
    undivided = gradient_of(private(), network(), ward)
    plan = {"divisor": 4, "sampling_rate": rate, "steps": 10_000}  # until both are drawn

    one, doubled = (gradient_of(private(**plan), network(), w) for w in (ward, double))

    assert torch.allclose(one, undivided / 4)
    assert torch.allclose(doubled, 2 * one, atol=1e-6)


# --- How far one patient can move it --------------------------------------------------------------


def drawn(ward: Ward, most: int, seed: int) -> Ward:
    """Everybody, with the records that the sampler draws."""
    steps = private(seed, records_per_patient=most)
    (batch,) = steps.batches(ward.patients)
    return ward.only(batch.records)


def with_oddity(ward: Ward, oddity: float | None) -> Ward:
    """One number of the middle record is another."""
    inputs = ward.inputs.clone()
    if oddity is not None:
        inputs[len(inputs) // 2].view(-1)[0] = oddity
    return replace(ward, inputs=inputs)


def moves(
    model: nn.Module, ward: Ward, patient: int, bound: float, gradients: str = "fedward"
) -> float:
    """How far the sum moves where the patient is left out."""
    whole, rest = (
        gradient_of(private(clipping_norm=bound, gradients=gradients), model, w)
        for w in (ward, ward.without(patient))
    )
    return float((whole - rest).norm())


@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("most", [1, 3, ALL], ids=["one record", "three records", "ragged"])
@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=6)
@given(
    sizes=sizes_of_patients,
    seed=some_seed,
    size=st.sampled_from([0.1, 1.0, 30.0]),
    bound=st.sampled_from([0.01, 1.0, 5.0]),
    oddity=st.sampled_from([None, math.nan, math.inf, -math.inf, 1e160, 1e300]),
)
@example(sizes=[1, 40, 3, 7], seed=1, size=10.0, bound=0.5, oddity=None)
@example(sizes=[1, 40, 3, 7], seed=1, size=10.0, bound=0.5, oddity=math.nan)
def test_one_patient_moves_the_sum_by_no_more_than_the_bound(
    name: str,
    most: int,
    gradients: str,
    sizes: list[int],
    seed: int,
    size: float,
    bound: float,
    oddity: float | None,
) -> None:
    model = network(name, seed, EXACT)
    ward = with_oddity(
        drawn(ward_of(sizes, name, seed, size=size, dtype=EXACT), most, seed), oddity
    )

    for patient in ward.everybody():
        assert moves(model, ward, patient, bound, gradients) <= bound * (1 + 1e-9)


@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("oddity", [None, math.nan, math.inf, 1e15, 1e19, 1e25, 3e38])
@pytest.mark.parametrize("name", NETWORKS)
def test_in_the_precision_of_training_it_is_the_bound_up_to_rounding(
    name: str, oddity: float | None, gradients: str
) -> None:
    ward = with_oddity(ward_of([1, 40, 3, 7], name, 3, size=10.0), oddity)

    for patient in ward.everybody():
        assert moves(network(name, 3), ward, patient, 1.0, gradients) <= 1 + 1e-4


class Apart(nn.Module):
    """Two layers, each with an input of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(1, 1), nn.Linear(1, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.one(inputs[:, :1]) + self.other(inputs[:, 1:])
        return found


@pytest.mark.parametrize("at_once", [1, ALL])
@pytest.mark.parametrize("oddity", [math.nan, math.inf, -math.inf, 3e38])
def test_a_patient_with_a_gradient_that_is_not_finite_counts_as_zero(
    oddity: float, at_once: int
) -> None:
    """In all parameters, though one of them alone is not finite; and nobody else is touched."""
    patients = torch.tensor([1, 1, 2, 3, 3])
    inputs = torch.tensor([[1.0, 2.0], [3.0, 0.5], [1.0, oddity], [0.1, 0.2], [5.0, 1.0]])
    found = []
    for ward in (everybody := Ward(inputs, patients, patients), everybody.without(2)):
        model, steps = Apart(), private(clipping_norm=1.5, at_once=at_once)
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        take(steps, ward, lambda outputs, _: outputs.squeeze(1))
        found.append(gradient(model))

    assert found[0].norm() > 1
    assert torch.allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("at_once", [1, ALL])
@pytest.mark.parametrize("oddity", [math.nan, math.inf])
def test_a_patient_whose_loss_is_not_finite_counts_as_zero(oddity: float, at_once: int) -> None:
    ward = ward_of([2, 1, 3])
    spoilt = Ward(ward.inputs, ward.patients, ward.patients)

    def broken(outputs: Tensor, numbers: Tensor) -> Tensor:
        worth = torch.where(numbers == ward.everybody()[1], oddity, 1.0)
        return outputs.sum(dim=1) * worth

    found = []
    for some in (spoilt, spoilt.without(ward.everybody()[1])):
        model, steps = network(), private(clipping_norm=0.7, at_once=at_once)
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        take(steps, some, broken)
        found.append(gradient(model))

    assert found[0].norm() > 0.5
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_where_no_gradient_is_finite_the_step_is_noise() -> None:
    """As where the model itself that was sent is not finite."""
    ward, model = ward_of([3, 1, 2]), network()
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    plan = {"noise_multiplier": 2.0, "clipping_norm": 0.5}

    found, alone = (
        gradient_of(private(**plan), model, w) for w in (ward, ward.only(ward.patients < 0))
    )

    assert found.isfinite().all()
    assert torch.equal(found, alone)


@pytest.mark.parametrize("name", NETWORKS)
def test_clipping_records_would_let_a_patient_with_many_move_it_by_many_times_the_bound(
    name: str,
) -> None:
    """The same forty records, which are of one patient and pull one way, clipped by themselves."""
    model = network(name, 5, EXACT)
    alike = ward_of([1], name, 5, size=3.0, dtype=EXACT)
    noise = 0.01 * ward_of([40], name, 6, dtype=EXACT).inputs
    others = ward_of([1, 2], name, 7, dtype=EXACT)
    wrong = 1 - model(alike.inputs).argmax(dim=1)
    ward = Ward(
        torch.cat([alike.inputs + noise, others.inputs]),
        torch.cat([wrong.repeat(40), others.labels]),
        torch.cat([torch.zeros(40, dtype=torch.int64), others.patients]),
    )
    bound = 0.05
    own = ward.patients == 0

    of_patients = moves(model, ward, 0, bound)
    whole = gradient_of(private(clipping_norm=bound), model, ward.one_by_one())
    rest = gradient_of(private(clipping_norm=bound), model, ward.only(~own).one_by_one())

    assert of_patients <= bound * (1 + 1e-9)
    assert (whole - rest).norm() > 30 * bound


# --- In pieces ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_in_pieces_it_is_the_same_up_to_rounding(name: str, at_once: int) -> None:
    for sizes in ([1] * 9, [3, 1, 1, 8, 2], [12], [2, 2, 2, 1]):
        ward = ward_of(sizes, name, 3, size=3.0, dtype=EXACT)
        model = network(name, 3, EXACT)
        whole = gradient_of(private(clipping_norm=0.2), model, ward)

        found = gradient_of(private(clipping_norm=0.2, at_once=at_once), model, ward)

        assert whole.norm() > 0.01
        assert torch.allclose(found, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 2, 7, ALL])
def test_the_noise_is_added_once_whatever_the_pieces(at_once: int) -> None:
    ward, model = ward_of([3, 1, 1, 8, 2], dtype=EXACT), network(dtype=EXACT)
    noisy, clean = (
        gradient_of(
            private(clipping_norm=0.2, noise_multiplier=sigma, at_once=at_once), model, ward
        )
        for sigma in (50.0, 0.0)
    )
    nobody = ward.only(torch.zeros(0, dtype=torch.int64))
    noise = gradient_of(private(clipping_norm=0.2, noise_multiplier=50.0), model, nobody)

    assert noise.norm() > 10
    assert torch.allclose(noisy - clean, noise, atol=1e-9)


def pieces_of(patients: Sequence[int], at_once: int) -> list[list[int]]:
    """Whose records went through the model together."""
    seen: list[list[int]] = []

    def watching(outputs: Tensor, numbers: Tensor) -> Tensor:
        seen.append(numbers.tolist())
        return outputs.sum(dim=1)

    model = nn.Linear(1, 2)
    steps = private(at_once=at_once)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    numbers = torch.tensor(patients, dtype=torch.int64)
    take(steps, Ward(torch.ones(len(patients), 1), numbers, numbers), watching)
    assert seen[:2] == [[patients[0]] * 2, [patients[0]] * 3]  # a new model is tried
    return seen[2:]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 25))
def test_pieces_are_as_large_as_allowed_and_tear_no_patient(sizes: list[int], at_once: int) -> None:
    patients = [5 * number for number, size in enumerate(sizes) for _ in range(size)]

    pieces = pieces_of(patients, at_once)

    assert [number for piece in pieces for number in piece] == patients
    assert sum(len(set(piece)) for piece in pieces) == len(sizes)
    for piece, following in zip(pieces, [*pieces[1:], []], strict=True):
        assert len(piece) <= at_once or len(set(piece)) == 1
        if following:  # one patient more would have been too many
            assert len(piece) + following.count(following[0]) > at_once


def test_the_pieces_leave_nothing_behind_for_the_next_step() -> None:
    ward, model = ward_of([3, 1, 4], dtype=EXACT), network(dtype=EXACT)
    steps = private(clipping_norm=0.3, at_once=2, steps=4)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    found = []
    for part in (ward, ward.only(ward.patients < 0), ward, ward):
        take(steps, part)
        found.append(gradient(model))

    assert found[0].norm() > 0.1
    assert not found[1].any()
    assert torch.allclose(found[0], found[2], rtol=1e-9, atol=1e-12)
    assert torch.allclose(found[0], found[3], rtol=1e-9, atol=1e-12)
