"""Plain steps: ordinary mini-batches, whoever's records these are."""

from __future__ import annotations

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD

from fedward.privacy.steps import PlainSteps
from tests.privacy.private_networks import flat, gradient, loss, network, ward_of


def plain(
    batch_size: int | None = None, *, epochs: int | None = None, steps: int | None = None
) -> PlainSteps:
    return PlainSteps(batch_size, epochs, steps, torch.Generator().manual_seed(0))


def batches(steps: PlainSteps, count: int) -> list[list[int]]:
    """The records of each step, of patients with two records each."""
    found: list[list[int]] = [b.records.tolist() for b in steps.batches(torch.arange(count) // 2)]
    return found


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 4))
def test_every_pass_visits_each_record_once(
    count: int, batch_size: int | None, epochs: int
) -> None:
    found = batches(plain(batch_size, epochs=epochs), count)
    a_pass = -(-count // (batch_size or count))

    assert len(found) == epochs * a_pass
    for number in range(epochs):
        of_pass = found[number * a_pass : (number + 1) * a_pass]
        assert sorted(itertools.chain(*of_pass)) == list(range(count))


@given(st.integers(1, 50), st.none() | st.integers(1, 60), st.integers(1, 40))
def test_as_many_steps_are_taken_as_asked_for(
    count: int, batch_size: int | None, steps: int
) -> None:
    found = batches(plain(batch_size, steps=steps), count)

    assert len(found) == steps
    assert all(0 < len(batch) <= (batch_size or count) for batch in found)


def test_no_batch_size_is_the_full_batch() -> None:
    (batch,) = batches(plain(None, epochs=1), 9)

    assert sorted(batch) == list(range(9))


def test_every_pass_has_another_order() -> None:
    one, other = batches(plain(None, epochs=2), 50)

    assert one != other


def test_the_order_comes_from_the_generator() -> None:
    one, other = (batches(plain(7, epochs=2), 30) for _ in range(2))

    assert one == other


def test_a_plain_gradient_is_that_of_the_mean_loss_and_nothing_is_left_over() -> None:
    ward, model = ward_of([3, 1, 6]), network()
    steps = plain(None, epochs=1)
    steps.prepare(model, SGD(model.parameters(), lr=0.1))
    expected: tuple[Tensor, ...] = torch.autograd.grad(
        functional.cross_entropy(model(ward.inputs), ward.labels), list(model.parameters())
    )

    for _ in range(2):
        steps.gradient(loss, ward.inputs, ward.labels, ward.patients)
    steps.finish()

    assert torch.allclose(gradient(model), flat(expected))
