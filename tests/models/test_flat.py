"""A model as a vector and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fedward.models import flat


def network() -> nn.Sequential:
    """Weights, buffers that are numbers, and one that is a count."""
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_the_vector_holds_every_number_of_the_state_in_its_order() -> None:
    model = network()
    state = [v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")]
    by_hand = np.concatenate([entry.numpy().reshape(-1) for entry in state])

    vector = flat.flatten(model)

    assert vector.dtype == np.float32
    assert np.array_equal(vector, by_hand)
    assert len(vector) == (12 + 4) + (4 + 4 + 4 + 4) + (8 + 2)


@given(st.integers(0, 10_000))
def test_a_vector_comes_back_bit_for_bit(seed: int) -> None:
    model = network()
    size = len(flat.flatten(model))
    bits = np.random.default_rng(seed).integers(0, 2**32, size, dtype=np.uint32)
    vector = bits.view(np.float32)

    flat.load(model, vector)

    assert flat.flatten(model).tobytes() == vector.tobytes()


def test_loading_makes_the_other_model_the_same_function() -> None:
    one, other = network().eval(), network().eval()
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    flat.load(other, flat.flatten(one))

    assert torch.equal(one(inputs), other(inputs))


@pytest.mark.parametrize("shape", [(0,), (41,), (43,), (1,), (42, 1), (1, 42), ()])
def test_a_vector_of_another_size_is_refused_and_changes_nothing(shape: tuple[int, ...]) -> None:
    model = network()
    before = flat.flatten(model)
    assert before.shape == (42,)

    with pytest.raises(ValueError, match="42 values"):
        flat.load(model, np.ones(shape, dtype=np.float32))
    assert np.array_equal(flat.flatten(model), before)


@pytest.mark.parametrize("model", [network(), nn.Linear(2, 2, bias=False)])
def test_vector_and_model_share_no_memory(model: nn.Module) -> None:
    vector = flat.flatten(model)
    before = vector.copy()

    vector[:] = 7
    assert np.array_equal(flat.flatten(model), before)

    given = before.copy()
    flat.load(model, given)
    given[:] = 7
    assert np.array_equal(flat.flatten(model), before)


def test_a_read_only_vector_can_be_loaded() -> None:
    model = nn.Linear(2, 2)
    vector = np.zeros(6, dtype=np.float32)
    vector.flags.writeable = False

    flat.load(model, vector)

    assert flat.flatten(model).tolist() == [0.0] * 6


def test_parameters_can_still_be_trained_after_loading() -> None:
    model = nn.Linear(2, 2)

    flat.load(model, np.ones(6, dtype=np.float32))
    model(torch.ones(1, 2)).sum().backward()

    assert all(p.requires_grad and p.grad is not None for p in model.parameters())


def test_named_is_the_whole_state_on_the_cpu() -> None:
    model = network()

    found = flat.named(model)

    assert list(found) == list(model.state_dict())
    assert all(torch.equal(found[k], v) for k, v in model.state_dict().items())
    assert all(v.is_contiguous() and v.device.type == "cpu" for v in found.values())
