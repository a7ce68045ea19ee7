"""However patients are bounded, none is longer than C afterwards."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.gradients.bounds import Clipping, clip_factors
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.source import layers_of
from fedward.privacy.gradients.uses import Product, squares_by_gram
from tests.privacy.gradients.layer_kinds import network, of_patients, records, sums_of

WAYS: list[Clipping] = ["flat", "per_layer", "automatic"]
LAYERS = [[0, 2], [1], [3]]
square = st.one_of(st.just(0.0), st.floats(1e-30, 1e30), st.just(math.inf), st.just(math.nan))


@pytest.mark.parametrize("clipping", WAYS)
@given(
    squares=st.lists(st.lists(square, min_size=4, max_size=4), min_size=1, max_size=5),
    bound=st.floats(1e-3, 1e3),
)
def test_no_patient_is_longer_than_the_bound(
    clipping: Clipping, squares: list[list[float]], bound: float
) -> None:
    given_squares = torch.tensor(squares, dtype=torch.float64).T
    factors, finite = clip_factors(given_squares, LAYERS, bound, clipping, torch.float32)

    assert finite.tolist() == [math.isfinite(sum(s)) for s in squares]
    assert not factors[:, ~finite].any()
    after = (factors.square() * given_squares)[:, finite].sum(dim=0).sqrt()
    assert (after <= bound).all()


def test_flat_leaves_the_short_alone_and_cuts_the_long() -> None:
    squares = torch.tensor([[0.09, 9.0], [0.16, 16.0], [0.0, 0.0], [0.0, 0.0]]).double()

    factors, _ = clip_factors(squares, LAYERS, 1.0, "flat", torch.float64)

    torch.testing.assert_close(factors, torch.tensor([[1.0, 0.2]]).double().expand(4, 2))


def test_per_layer_cuts_each_layer_by_itself() -> None:
    squares = torch.tensor([[9.0], [1.0], [16.0], [0.0]]).double()

    factors, _ = clip_factors(squares, LAYERS, 3.0, "per_layer", torch.float64)

    root = 3 / math.sqrt(3)
    torch.testing.assert_close(factors[:, 0].tolist(), [root / 5, 1.0, root / 5, 1.0])


def test_automatic_makes_nearly_all_as_long_as_the_bound() -> None:
    squares = torch.tensor([[1e-12, 1.0, 1e6]] * 4).double()

    factors, _ = clip_factors(squares, LAYERS, 0.5, "automatic", torch.float64)

    after = (factors.square() * squares).sum(dim=0).sqrt()
    torch.testing.assert_close(after.tolist(), [0.5 * 2e-6 / (2e-6 + 0.01), 0.5 * 2 / 2.01, 0.5],
                               rtol=1e-5, atol=0)  # fmt: skip


@pytest.mark.parametrize("clipping", ["per_layer", "automatic"])
@pytest.mark.parametrize("name", ["small_cnn", "lstm", "transformer"])
def test_the_engine_bounds_by_definition(name: str, clipping: Clipping) -> None:
    sizes, bound = [1, 4, 2], 0.3
    inputs, labels = records(name, 7)
    model = network(name)
    each = of_patients(model, inputs, labels, sizes)
    parts = each.split([p.numel() for p in model.parameters()], dim=1)
    wanted = [torch.empty(0)] * len(parts)
    if clipping == "automatic":
        wanted = [part * (bound / (each.norm(dim=1) + 0.01))[:, None] for part in parts]
    else:
        layers = layers_of(model, list(model.parameters()))
        for layer in layers:
            norms = torch.cat([parts[place] for place in layer], dim=1).norm(dim=1)
            cut = (bound / math.sqrt(len(layers)) / norms).clamp(max=1)[:, None]
            for place in layer:
                wanted[place] = parts[place] * cut

    found = sums_of(EngineSums, model, inputs, labels, sizes, bound=bound, clipping=clipping)

    torch.testing.assert_close(found, torch.cat(wanted, dim=1).sum(dim=0), rtol=1e-9, atol=1e-11)


def test_where_positions_cancel_a_norm_in_float32_is_not_missed() -> None:
    """Two positions that take each other away but for a thousandth, in 2,000 features."""
    torch.manual_seed(0)
    g, a = torch.randn(1, 1, 1, 2000), torch.randn(1, 1, 1, 2000)
    left = torch.cat([g, -g], dim=2)
    right = torch.cat([a, a * (1 + 1e-4 * torch.randn_like(a))], dim=2)
    product = Product(left, right, torch.Size([2000, 2000]))
    patients = Patients(torch.tensor([1]), left.device)

    found = squares_by_gram([product], patients)

    formed = (left.double().mT @ right.double()).square().sum()
    assert found.item() == pytest.approx(formed.item(), rel=1e-6)
    in_float32 = ((left @ left.mT) * (right @ right.mT)).sum()
    assert abs(in_float32.item() - formed.item()) > 0.1 * formed.item()
