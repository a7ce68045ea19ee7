"""Whose gradient it is: what could give it to another patient, or miss its norm, is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from fedward.privacy.gradients.bounds import Clipping
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums
from fedward.privacy.precision import FLOAT32
from fedward.privacy.privacy_errors import NoGradient, NotPerRecord, UntrainableLayer
from fedward.privacy.private_model import refuse_unprotected
from tests.privacy.gradients.layer_kinds import network, records, sums_of

Called = Callable[..., Any]
BOTH = pytest.mark.parametrize("kind", [EngineSums, HookedSums])
RECURRENT = pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])


def labels(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64)


class Made(nn.Module):
    """A network of one layer and a forward of its own."""

    def __init__(self, layer: nn.Module, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = layer
        self._own = forward

    def forward(self, inputs: Tensor) -> Tensor:
        return self._own(self.layer, inputs)


@pytest.mark.parametrize("clipping", ["flat", "per_layer"])
@pytest.mark.parametrize(("small", "large"), [(1e-23, 1e18), (2e-23, 5e17), (1e18, 1e-23)])
@BOTH
def test_a_norm_is_not_missed_where_a_square_is_too_small_for_float32(
    kind: type[ClippedSums], small: float, large: float, clipping: Clipping
) -> None:
    model, bound = nn.Linear(100, 100, bias=False), 1e-6
    source = kind(model, bound=bound, clipping=clipping, precision=FLOAT32)

    [found] = source.of(
        lambda outputs, _: (outputs * large).sum(dim=1),
        torch.full((1, 100), small),
        torch.zeros(1),
        torch.tensor([1]),
    )

    assert 0.9 * bound < float(found.double().norm()) <= 1.001 * bound


def sorted_by_itself(layer: Called, inputs: Tensor) -> Tensor:
    """As was done before PyTorch could: by length, and back."""
    lengths = (inputs[:, 0, 0].abs() * 10).long() % inputs.shape[1] + 1
    order = lengths.argsort(descending=True)
    packed = pack_padded_sequence(inputs[order], lengths[order], batch_first=True)
    last = layer(packed)[1]
    last = last[0] if isinstance(last, tuple) else last
    found: Tensor = last[-1][order.argsort()]
    return found


@RECURRENT
@pytest.mark.parametrize(
    ("kind", "why"), [(EngineSums, "order of the model's own"), (HookedSums, "to another record")]
)
def test_records_that_a_model_sorts_are_refused(
    kind: type[ClippedSums], why: str, layer: Called
) -> None:
    model = Made(layer(3, 4, batch_first=True), sorted_by_itself)

    with pytest.raises(NotPerRecord, match=why):
        sums_of(kind, model, torch.randn(5, 6, 3), labels(5), [1] * 5, bound=1.0)


@pytest.mark.parametrize("name", ["lstm, packed", "rnn, relu, packed"])
def test_opacus_gives_packed_gradients_to_other_records_and_is_refused(name: str) -> None:
    """Also where PyTorch sorts: removing a patient moved the clipped sum by up to 1.3 C."""
    inputs, named = records(name, 5)

    with pytest.raises(NotPerRecord, match="to another record"):
        sums_of(HookedSums, network(name), inputs, named, [1] * 5, bound=1.0)


@RECURRENT
def test_packed_outputs_are_where_the_inputs_were(layer: Called) -> None:
    """Of many sequences of one length any order is sorted."""
    seen: list[PackedSequence] = []

    def forward(own: Called, inputs: Tensor) -> Tensor:
        lengths = torch.full((len(inputs),), inputs.shape[1])
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        outputs, last = own(packed)
        seen.append(outputs)
        found: Tensor = (last[0] if isinstance(last, tuple) else last)[-1]
        return found

    model = Made(layer(3, 4, 2, batch_first=True, bidirectional=True).double(), forward)
    inputs = torch.randn(40, 6, 3).double()
    model(inputs)
    sums_of(EngineSums, model, inputs, labels(40), [1] * 40, bound=1.0)

    plain, ours = seen[0], seen[-1]
    assert torch.equal(plain.batch_sizes, ours.batch_sizes)
    torch.testing.assert_close(ours.data, plain.data)
    for place in ("sorted_indices", "unsorted_indices"):
        assert torch.equal(getattr(plain, place), getattr(ours, place))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),
        nn.LayerNorm(4),
        nn.Embedding(9, 4),
        nn.MultiheadAttention(4, 2, batch_first=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_what_a_layer_saw_may_not_be_changed_before_its_gradient_comes(layer: nn.Module) -> None:
    """PyTorch refuses it too, but knows of no input whose layer's weights are detached."""

    def forward(own: Called, inputs: Tensor) -> Tensor:
        seen = inputs[:, :, 0].long().abs() if isinstance(layer, nn.Embedding) else inputs + 0
        found = own(seen, seen, seen)[0] if isinstance(own, nn.MultiheadAttention) else own(seen)
        seen += 1
        total: Tensor = found.sum(dim=1)
        return total

    with pytest.raises(UntrainableLayer, match="changed in place"):
        sums_of(
            EngineSums, Made(layer, forward), torch.randn(3, 5, 4), labels(3), [1] * 3, bound=1.0
        )


def test_a_recurrent_layer_without_biases_is_none_for_opacus() -> None:
    with pytest.raises(UntrainableLayer, match="GRU, cannot be trained privately by Opacus"):
        refuse_unprotected(nn.Sequential(nn.GRU(3, 4, bias=False)), "opacus")

    refuse_unprotected(nn.Sequential(nn.GRU(3, 4)), "opacus")


class Doubling(nn.Module):
    """A layer without a rule of the engine's that changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mul_(2) * self.weight


def test_a_layer_may_not_change_its_own_input() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Doubling(), nn.Linear(4, 2))

    with pytest.raises(UntrainableLayer, match="changed in place"):
        sums_of(EngineSums, model, torch.randn(3, 4), labels(3), [1] * 3, bound=1.0)


def places(layer: Called, inputs: Tensor) -> Tensor:
    """A table of what is added at each step, looked up for no record."""
    found: Tensor = (inputs + layer(torch.arange(inputs.shape[1]))).sum(dim=1)
    return found


def time_first(layer: Called, inputs: Tensor) -> Tensor:
    found: Tensor = layer(inputs.transpose(0, 1)).sum(dim=0)
    return found


@pytest.mark.parametrize("records", [2, 3, 5, 7])
@pytest.mark.parametrize(
    ("layer", "forward"),
    [
        (lambda steps: nn.Linear(4, 4), time_first),
        (lambda steps: nn.Embedding(steps, 4), places),
        (lambda steps: nn.LayerNorm(4), time_first),
    ],
)
@BOTH
def test_as_many_steps_as_records_are_not_taken_for_them(
    kind: type[ClippedSums],
    layer: Callable[[int], nn.Module],
    forward: Callable[[Any, Tensor], Tensor],
    records: int,
) -> None:
    model = Made(layer(records), forward)

    with pytest.raises(NotPerRecord):
        sums_of(
            kind, model, torch.randn(records, records, 4), labels(records), [1] * records,
            bound=1.0,
        )  # fmt: skip


@BOTH
def test_trying_a_model_draws_nothing(kind: type[ClippedSums]) -> None:
    """Dropout of a model that was tried and of one that is new drops the same."""
    found = []
    for steps in (1, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        inputs = torch.randn(6, 4)
        for _ in range(steps):
            torch.manual_seed(1)
            found.append(sums_of(kind, model, inputs, labels(6), [1] * 6, bound=1.0))
            after = torch.rand(1)

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[1], found[2])
    assert after == torch.rand(1, generator=_drawn_from(1, 6 * 8))


def _drawn_from(seed: int, dropped: int) -> torch.Generator:
    """A generator after one dropout of so many numbers."""
    torch.manual_seed(seed)
    nn.functional.dropout(torch.ones(6, dropped // 6), 0.5, training=True)
    drawn = torch.Generator()
    drawn.set_state(torch.get_rng_state())
    return drawn


class Owning(nn.Module):
    """A layer with a parameter of its own around another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.inner(inputs * self.scale)
        return found


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(requires_grad=False)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(frozen(nn.Embedding(9, 4, max_norm=1.0)), nn.Linear(4, 2)), "max_norm"),
        (Owning(nn.Embedding(9, 4, max_norm=1.0)), "max_norm"),
        (Owning(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1))), "no dropout inside"),
        (Owning(nn.LSTM(4, 4)), "no recurrent layer inside"),
        (nn.EmbeddingBag(9, 4), "no one output"),
        (nn.LSTMCell(4, 4), "no one output"),
    ],
)
def test_what_neither_can_do_is_refused_by_name(model: nn.Module, why: str) -> None:
    with pytest.raises(UntrainableLayer, match=why):
        refuse_unprotected(model)


def test_a_layer_whose_forward_was_replaced_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 2))
    plain = model[0].forward
    model[0].forward = lambda inputs: 2 * plain(inputs)

    with pytest.raises(UntrainableLayer, match="forward was replaced"):
        refuse_unprotected(model)
    assert "forward" in vars(model[0])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_a_layer_whose_weight_is_computed_is_refused() -> None:
    with pytest.raises(UntrainableLayer, match="computed from others"):
        refuse_unprotected(nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 2))))
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 2)))

    with pytest.raises(NoGradient, match="something else than its trainable parameters"):
        sums_of(EngineSums, model, torch.randn(3, 4), labels(3), [1] * 3, bound=1.0)


@BOTH
def test_a_model_without_trainable_parameters_is_refused(kind: type[ClippedSums]) -> None:
    with pytest.raises(NoGradient, match="no trainable parameter"):
        kind(frozen(nn.Linear(4, 2)), bound=1.0, clipping="flat", precision=FLOAT32)
