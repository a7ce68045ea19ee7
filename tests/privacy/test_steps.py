"""A step's gradient: plain against PyTorch, private against the definition of DP-SGD."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from fedward.models import mlp, small_cnn
from fedward.privacy.steps import LocalSteps, PlainSteps, PrivateSteps
from fedward.study.errors import TrainingError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, labels, reduction="none")


def plain(
    batch_size: int | None = None, *, epochs: int | None = None, steps: int | None = None
) -> PlainSteps:
    return PlainSteps(batch_size, epochs, steps, seeded())


def private(
    *,
    noise_multiplier: float = 0.0,
    clipping_norm: float = 1e6,
    sampling_rate: float = 1.0,
    divisor: float = 1.0,
    steps: int = 1,
    seed: int = 0,
) -> PrivateSteps:
    return PrivateSteps(
        noise_multiplier,
        clipping_norm,
        sampling_rate,
        divisor,
        steps,
        sampling=seeded(seed),
        noise=seeded(seed + 1),
    )


def perceptron(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp.build(mlp.Settings(hidden=(5,)), (3,), 2)


def convolutions(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return small_cnn.build(small_cnn.Settings(channels=(4, 6), groups=2), (1, 6, 6), 2)


class Twice(nn.Module):
    """One layer that is used two times on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.outer = nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.outer(torch.relu(self.inner(torch.relu(self.inner(inputs)))))
        return found


def twice(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Twice()


NETWORKS: dict[str, tuple[Callable[[int], nn.Module], tuple[int, ...]]] = {
    "mlp": (perceptron, (3,)),
    "small_cnn": (convolutions, (1, 6, 6)),
    "a layer used twice": (twice, (3,)),
}


def records(
    shape: tuple[int, ...], count: int, seed: int, size: float = 1.0
) -> tuple[Tensor, Tensor]:
    source = seeded(seed)
    inputs = torch.randn(count, *shape, generator=source) * size
    return inputs, torch.randint(0, 2, (count,), generator=source)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def parameters(model: nn.Module) -> Tensor:
    return flat(list(model.parameters()))


def gradient(model: nn.Module) -> Tensor:
    return flat([p.grad for p in model.parameters() if p.grad is not None])


def gradient_of(steps: LocalSteps, model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    model = copy.deepcopy(model)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    steps.gradient(loss, inputs, labels)
    return gradient(model)


def run(steps: LocalSteps, model: nn.Module, inputs: Tensor, labels: Tensor) -> nn.Module:
    model = copy.deepcopy(model)
    optimizer = SGD(model.parameters(), lr=0.3)
    steps.prepare(model, optimizer)
    for batch in steps.batches(len(inputs)):
        steps.gradient(loss, inputs[batch], labels[batch])
        optimizer.step()
    return model


# --- Plain batches --------------------------------------------------------------------------------


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 4))
def test_every_pass_visits_each_record_once(
    count: int, batch_size: int | None, epochs: int
) -> None:
    batches = [b.tolist() for b in plain(batch_size, epochs=epochs).batches(count)]
    a_pass = -(-count // (batch_size or count))

    assert len(batches) == epochs * a_pass
    for number in range(epochs):
        of_pass = batches[number * a_pass : (number + 1) * a_pass]
        assert sorted(itertools.chain(*of_pass)) == list(range(count))


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 40))
def test_as_many_steps_are_taken_as_asked_for(
    count: int, batch_size: int | None, steps: int
) -> None:
    batches = list(plain(batch_size, steps=steps).batches(count))

    assert len(batches) == steps
    assert all(0 < len(batch) <= (batch_size or count) for batch in batches)


def test_no_batch_size_is_the_full_batch() -> None:
    (batch,) = plain(None, epochs=1).batches(9)

    assert sorted(batch.tolist()) == list(range(9))


def test_every_pass_has_another_order() -> None:
    one, other = plain(None, epochs=2).batches(50)

    assert one.tolist() != other.tolist()


def test_the_order_comes_from_the_generator() -> None:
    batches = [[b.tolist() for b in plain(7, epochs=2).batches(30)] for _ in range(2)]

    assert batches[0] == batches[1]


def test_a_plain_gradient_is_that_of_the_mean_loss_and_nothing_is_left_over() -> None:
    inputs, labels = records((3,), 10, 0)
    model = perceptron()
    steps = plain(None, epochs=1)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    expected = torch.autograd.grad(
        functional.cross_entropy(model(inputs), labels), list(model.parameters())
    )

    for _ in range(2):
        steps.gradient(loss, inputs, labels)

    assert torch.allclose(gradient(model), flat(list(expected)))


# --- Private steps are SGD where nothing is clipped and no noise is added -------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_without_noise_and_clipping_private_steps_are_full_batch_sgd(name: str) -> None:
    build, shape = NETWORKS[name]
    inputs, labels = records(shape, 12, 0)
    model = build(0)
    expected = copy.deepcopy(model)
    optimizer = SGD(expected.parameters(), lr=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        functional.cross_entropy(expected(inputs), labels).backward()
        optimizer.step()

    found = run(private(divisor=12, steps=5), model, inputs, labels)

    assert torch.allclose(parameters(found), parameters(expected), atol=1e-6)
    assert not torch.allclose(parameters(found), parameters(model), atol=1e-3)


@pytest.mark.parametrize(
    "change", [{"noise_multiplier": 0.1, "clipping_norm": 1.0}, {"clipping_norm": 1e-3}]
)
def test_noise_or_clipping_makes_a_difference(change: dict[str, float]) -> None:
    inputs, labels = records((3,), 12, 0)
    without = run(private(divisor=12, steps=5), perceptron(), inputs, labels)

    steps = private(divisor=12, steps=5)
    for key, value in change.items():
        setattr(steps, key, value)
    found = run(steps, perceptron(), inputs, labels)

    assert not torch.allclose(parameters(found), parameters(without), atol=1e-3)


# --- Clipping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    size=st.sampled_from([0.1, 1.0, 30.0]),
    bound=st.sampled_from([0.01, 1.0, 5.0]),
)
def test_one_record_moves_the_sum_by_no_more_than_the_bound(
    name: str, seed: int, count: int, size: float, bound: float
) -> None:
    build, shape = NETWORKS[name]
    inputs, labels = records(shape, count, seed, size)
    model = build(seed)

    whole = gradient_of(private(clipping_norm=bound), model, inputs, labels)
    for left_out in range(count):
        kept = torch.arange(count) != left_out
        rest = gradient_of(private(clipping_norm=bound), model, inputs[kept], labels[kept])

        assert (whole - rest).norm() <= bound * (1 + 1e-4)


def test_a_large_gradient_is_cut_to_the_bound_and_keeps_its_direction() -> None:
    inputs, labels = records((3,), 1, 0, size=100.0)
    model = perceptron()
    labels = 1 - model(inputs).argmax(dim=1)  # wrong, so that there is something to learn
    free = gradient_of(private(), model, inputs, labels)
    assert free.norm() > 10

    cut = gradient_of(private(clipping_norm=0.5), model, inputs, labels)

    assert cut.norm().item() == pytest.approx(0.5, rel=1e-3)
    assert functional.cosine_similarity(cut, free, dim=0).item() == pytest.approx(1, abs=1e-5)


def test_a_small_gradient_is_left_as_it_is() -> None:
    inputs, labels = records((3,), 1, 0)
    free = gradient_of(private(), perceptron(), inputs, labels)

    same = gradient_of(
        private(clipping_norm=float(free.norm()) * 1.01), perceptron(), inputs, labels
    )

    assert torch.allclose(same, free, atol=1e-6)


def test_records_are_clipped_one_by_one_and_not_their_sum() -> None:
    inputs, labels = records((3,), 8, 0, size=10.0)
    model = perceptron()
    each = [gradient_of(private(), model, inputs[k : k + 1], labels[k : k + 1]) for k in range(8)]
    by_hand = torch.stack([g * min(1.0, 0.3 / float(g.norm())) for g in each]).sum(dim=0)

    found = gradient_of(private(clipping_norm=0.3), model, inputs, labels)

    assert torch.allclose(found, by_hand, atol=1e-4)


# --- The divisor ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_the_divisor_depends_on_neither_batch_nor_rate(rate: float) -> None:
    inputs, labels = records((3,), 1, 0)
    one = gradient_of(private(divisor=4, sampling_rate=rate), perceptron(), inputs, labels)
    doubled = gradient_of(
        private(divisor=4, sampling_rate=rate),
        perceptron(),
        inputs.repeat(2, 1),
        labels.repeat(2),
    )
    undivided = gradient_of(private(), perceptron(), inputs, labels)

    assert torch.allclose(one, undivided / 4)
    assert torch.allclose(doubled, 2 * one, atol=1e-6)


# --- Noise ----------------------------------------------------------------------------------------


def noises(count: int, **settings_: float) -> Tensor:
    """Gradients of empty batches, shape (count, parameters)."""
    model = nn.Linear(100, 20)
    steps = private(**settings_)  # type: ignore[arg-type]
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    found = []
    for _ in range(count):
        steps.gradient(loss, torch.zeros(0, 100), torch.zeros(0, dtype=torch.int64))
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


def test_the_noise_is_the_same_whatever_the_records_are() -> None:
    inputs, labels = records((3,), 6, 0)
    noisy, clean = (
        gradient_of(
            private(noise_multiplier=sigma, clipping_norm=1.0), perceptron(), inputs, labels
        )
        for sigma in (2.0, 0.0)
    )
    alone = gradient_of(
        private(noise_multiplier=2.0, clipping_norm=1.0), perceptron(), inputs[:0], labels[:0]
    )

    assert torch.allclose(noisy - clean, alone, atol=1e-5)


def test_an_empty_batch_makes_a_step_of_noise_only() -> None:
    model = perceptron()
    before = parameters(model).clone()
    optimizer = SGD(model.parameters(), lr=0.1)
    steps = private(noise_multiplier=1.0, clipping_norm=1.0)
    steps.prepare(model, optimizer)

    steps.gradient(loss, torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
    optimizer.step()

    assert not torch.equal(parameters(model), before)


def test_an_empty_batch_keeps_nothing_of_the_batches_around_it() -> None:
    inputs, labels = records((3,), 6, 0)
    model = perceptron()
    steps = private()
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    expected = gradient_of(private(), perceptron(), inputs, labels)

    for part, wanted in ((6, expected), (0, torch.zeros_like(expected)), (6, expected)):
        steps.gradient(loss, inputs[:part], labels[:part])
        assert torch.allclose(gradient(model), wanted, atol=1e-6)


def test_a_study_whose_batches_are_all_empty_runs_to_its_end() -> None:
    inputs, labels = records((3,), 4, 0)
    steps = private(sampling_rate=1e-9, noise_multiplier=1.0, clipping_norm=1.0, steps=5)

    found = run(steps, perceptron(), inputs, labels)

    assert parameters(found).isfinite().all()
    assert not torch.allclose(parameters(found), parameters(perceptron()))


# --- Sampling -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "rate"), [(60, 0.3), (200, 0.02), (5, 0.5)])
def test_samples_are_as_large_as_a_binomial_says(count: int, rate: float) -> None:
    sizes = [len(b) for b in private(sampling_rate=rate, steps=4000).batches(count)]
    expected = 4000 * np.array(
        [math.comb(count, k) * rate**k * (1 - rate) ** (count - k) for k in range(count + 1)]
    )
    seen = np.bincount(sizes, minlength=count + 1)
    common = expected >= 5

    assert len(sizes) == 4000
    assert seen[~common].sum() < 60
    here, there = seen[common], expected[common]
    assert stats.chisquare(here, there * here.sum() / there.sum()).pvalue > 1e-3


def test_every_record_is_sampled_equally_often_and_independently() -> None:
    taken = np.zeros((4000, 20))
    for step, batch in enumerate(private(sampling_rate=0.25, steps=4000).batches(20)):
        assert batch.dtype == torch.int64
        assert len(set(batch.tolist())) == len(batch)
        taken[step, batch.numpy()] = 1

    assert np.abs(taken.mean(axis=0) - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 4000)
    assert np.abs(np.corrcoef(taken.T) - np.eye(20)).max() < 0.08


def test_a_rate_of_one_takes_every_record_in_every_step() -> None:
    batches = list(private(sampling_rate=1.0, steps=50).batches(30))

    assert [b.tolist() for b in batches] == [list(range(30))] * 50


# --- What cannot be trained privately -------------------------------------------------------------


def test_batch_normalisation_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    with pytest.raises(TrainingError, match="BatchNorm"):
        private().prepare(model, SGD(model.parameters(), lr=0.1))


class Unused(nn.Module):
    """A layer that takes no part in the output."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.used(inputs)
        return found


def test_a_parameter_without_a_gradient_for_each_record_is_refused() -> None:
    inputs, labels = records((3,), 4, 0)

    with pytest.raises(TrainingError, match="no per-record gradient"):
        gradient_of(private(), Unused(), inputs, labels)


def test_a_frozen_layer_is_left_alone() -> None:
    inputs, labels = records((3,), 6, 0)
    model = perceptron()
    first = next(model.children())
    first.requires_grad_(False)
    before = parameters(model).clone()
    steps = private(noise_multiplier=1.0, clipping_norm=1.0)
    optimizer = SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    steps.prepare(model, optimizer)

    steps.gradient(loss, inputs, labels)
    optimizer.step()

    changed = parameters(model) != before
    frozen = sum(p.numel() for p in first.parameters())
    assert not changed[:frozen].any()
    assert changed[frozen:].all()
