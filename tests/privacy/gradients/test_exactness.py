"""The engine's clipped sums are those of a loop of plain autograd over the patients."""

from __future__ import annotations

import dataclasses
import gc
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fedward.privacy.gradients import contribution, recurrent
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.precision import Kind, Precision
from fedward.privacy.privacy_errors import NoGradient, NotPerRecord, UntrainableLayer
from fedward.privacy.private_model import refuse_unprotected
from tests.privacy.gradients.layer_kinds import (
    KINDS,
    Headed,
    Words,
    channels_last,
    clipped,
    network,
    of_patients,
    records,
    sums_of,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight"),
]
NEAR = {torch.float32: 1e-5, torch.float64: 1e-10}
SIZES = ([1, 1, 1, 1], [2, 2, 2], [1, 4, 2, 1], [9, 1, 1, 1, 1], [3])
FREE = 1e9


def assert_exact(
    model: nn.Module, inputs: Tensor, labels: Tensor, sizes: list[int], near: float
) -> None:
    """For a bound that cuts nobody, some, and all."""
    each = of_patients(model, inputs, labels, sizes)
    norms = each.double().norm(dim=1)
    for bound in (FREE, float(norms.median()), 0.5 * float(norms.min())):
        found = sums_of(EngineSums, model, inputs, labels, sizes, bound=bound)

        scale = norms.clamp(max=bound).sum()
        assert found.dtype == each.dtype
        assert (found - clipped(each, bound)).double().norm() <= near * scale


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KINDS)
def test_clipped_sums_are_those_of_a_loop_over_the_patients(
    name: str, dtype: torch.dtype, sizes: list[int]
) -> None:
    inputs, labels = records(name, sum(sizes), dtype)

    assert_exact(network(name, dtype), inputs, labels, sizes, NEAR[dtype])


@pytest.mark.parametrize("name", KINDS)
def test_nothing_of_a_pass_is_kept(name: str) -> None:
    """A hook that holds a tensor of its own graph keeps it in memory for ever."""
    model, (inputs, labels) = network(name), records(name, 7)
    there = []
    for _ in range(3):
        sums_of(EngineSums, model, inputs, labels, [1, 4, 2], bound=1.0)
        gc.collect()
        there.append(sum(type(each) is Tensor for each in gc.get_objects()))

    assert there[0] == there[1] == there[2]


@pytest.fixture(params=["gram", "formed"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whichever is cheaper, the other way to the norms is right too, in small parts too."""
    monkeypatch.setattr(contribution, "_gram_is_cheaper", lambda *_: request.param == "gram")
    monkeypatch.setattr(contribution, "_AT_ONCE", 50)
    monkeypatch.setattr(contribution, "_IN_CACHE", 50)
    return str(request.param)


@pytest.mark.parametrize("sizes", [[1, 1, 1], [2, 2], [1, 4, 2]], ids=str)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.usefixtures("way")
def test_both_ways_to_the_norms_are_exact(name: str, sizes: list[int]) -> None:
    inputs, labels = records(name, sum(sizes))

    assert_exact(network(name), inputs, labels, sizes, 1e-10)


@pytest.mark.parametrize("name", [name for name in KINDS if "convolution" in name])
def test_a_convolution_is_the_same_over_patches(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    from fedward.privacy.gradients.convolution import Kernel

    monkeypatch.setattr(Kernel, "device", torch.device("meta"))
    inputs, labels = records(name, 7)

    assert_exact(network(name), inputs, labels, [1, 4, 2], 1e-10)


@pytest.fixture
def _through_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    of = recurrent.Direction.of
    monkeypatch.setattr(
        recurrent.Direction,
        "of",
        staticmethod(lambda *given: dataclasses.replace(of(*given), through_kernel=True)),
    )


@pytest.mark.usefixtures("_through_the_kernel")
@pytest.mark.parametrize("name", [n for n in KINDS if n[:3] in ("lst", "gru", "rnn")])
def test_a_recurrent_layer_is_the_same_through_the_kernel(name: str) -> None:
    inputs, labels = records(name, 7)

    assert_exact(network(name), inputs, labels, [1, 4, 2], 1e-10)


class Looking(nn.Module):
    """Uses its layer without gradients first."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.layer(inputs)[0].mean(dim=(1, 2), keepdim=True)
        found: Tensor = self.head(self.layer(inputs - seen)[0].mean(dim=1))
        return found


@pytest.mark.usefixtures("_through_the_kernel")
def test_a_look_without_gradients_changes_nothing_through_the_kernel() -> None:
    inputs, labels = records("lstm", 7)

    assert_exact(Looking().double(), inputs, labels, [1, 4, 2], 1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_each_patient_s_norm_is_the_true_one(name: str) -> None:
    """A gradient alone, cut to any length, has that length and its own direction."""
    inputs, labels = records(name, 3)
    model = network(name)
    each = of_patients(model, inputs, labels, [3])

    found = sums_of(EngineSums, model, inputs, labels, [3], bound=0.01)

    assert found.norm().item() == pytest.approx(min(0.01, each.norm().item()), rel=1e-10)
    assert torch.cosine_similarity(found, each[0], dim=0).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("name", KINDS)
def test_a_patient_without_records_in_the_batch_adds_nothing(name: str) -> None:
    inputs, labels = records(name, 6)
    model, there = network(name), torch.tensor([0, 1, 3, 4, 5])
    each = of_patients(model, inputs, labels, [2, 1, 3])

    found = sums_of(EngineSums, model, inputs[there], labels[there], [2, 3], bound=0.3)

    torch.testing.assert_close(found, clipped(each[[0, 2]], 0.3), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=4)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    seed=st.integers(0, 1000),
    size=st.sampled_from([0.1, 1.0, 20.0]),
    bound=st.sampled_from([0.01, 1.0]),
    oddity=st.sampled_from([None, math.nan, math.inf, 1e160]),
)
def test_one_patient_moves_the_sum_by_no_more_than_the_bound(
    name: str, sizes: list[int], seed: int, size: float, bound: float, oddity: float | None
) -> None:
    inputs, labels = records(name, sum(sizes), seed=seed, size=size)
    if oddity is not None and "embedding" not in name and "tied" not in name:
        inputs[len(inputs) // 2].view(-1)[-1] = oddity
    model = network(name, seed=seed)
    whole = sums_of(EngineSums, model, inputs, labels, sizes, bound=bound)
    ends = torch.tensor(sizes).cumsum(0).tolist()

    assert whole.isfinite().all()
    for number, (end, count) in enumerate(zip(ends, sizes, strict=True)):
        rest = torch.cat([torch.arange(end - count), torch.arange(end, len(inputs))])
        others = [s for place, s in enumerate(sizes) if place != number]
        without = sums_of(EngineSums, model, inputs[rest], labels[rest], others, bound=bound)
        assert (whole - without).norm() <= bound * (1 + 1e-9)


# --- Shapes ---------------------------------------------------------------------------------------

few = st.integers(1, 3)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    width=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    kernel=few,
    stride=few,
    padding=st.integers(0, 2),
    dilation=few,
    groups=few,
    channels=few,
    out=few,
)
def test_a_convolution_of_any_shape_is_exact(
    sizes: list[int],
    width: list[int],
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    channels: int,
    out: int,
) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(width) - 1]
    least = dilation * (kernel - 1) + 1 - 2 * padding
    wide = [max(w, least) for w in width]
    torch.manual_seed(len(wide))
    layer = kind(
        channels * groups, out * groups, kernel, stride, padding, dilation=dilation, groups=groups
    )
    model = Headed(layer, out * groups, channels_last).double()
    inputs = torch.randn(sum(sizes), channels * groups, *wide, dtype=torch.float64)

    assert_exact(model, inputs, torch.arange(sum(sizes)) % 2, sizes, 1e-10)


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    positions=st.lists(st.integers(1, 4), max_size=2),
    into=st.integers(1, 9),
    out=st.integers(1, 9),
)
def test_a_linear_layer_of_any_shape_is_exact(
    sizes: list[int], positions: list[int], into: int, out: int
) -> None:
    torch.manual_seed(into)
    model = Headed(nn.Linear(into, out), out).double()
    inputs = torch.randn(sum(sizes), *positions, into, dtype=torch.float64)

    assert_exact(model, inputs, torch.arange(sum(sizes)) % 2, sizes, 1e-10)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    steps=st.integers(1, 6),
    hidden=st.integers(1, 4),
    layers=few,
    both=st.booleans(),
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
)
def test_a_recurrent_layer_of_any_shape_is_exact(
    sizes: list[int], steps: int, hidden: int, layers: int, both: bool, kind: type[nn.LSTM]
) -> None:
    torch.manual_seed(hidden)
    layer = kind(3, hidden, layers, batch_first=True, bidirectional=both)

    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.layer(inputs)[0]
            return found

    model = Headed(First(), hidden * (1 + both)).double()
    inputs = torch.randn(sum(sizes), steps, 3, dtype=torch.float64)

    assert_exact(model, inputs, torch.arange(sum(sizes)) % 2, sizes, 1e-10)


# --- Parameters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_frozen_parameters_have_no_part_in_the_norm(name: str) -> None:
    inputs, labels = records(name, 7)
    names = [path for path, _ in network(name).named_parameters()]
    for some in (names[::2], names[1::2], names[: len(names) // 2], names[len(names) // 2 :]):
        model = network(name)
        for path in some:
            model.get_parameter(path).requires_grad_(False)

        assert_exact(model, inputs, labels, [1, 4, 2], 1e-10)


def test_a_table_that_is_also_the_last_matrix_has_one_gradient() -> None:
    model = network("tied")
    assert len(list(model.parameters())) == len(list(network("embedding").parameters())) - 1

    inputs, labels = records("tied", 7)
    assert_exact(model, inputs, labels, [1, 4, 2], 1e-10)


def test_given_first_states_are_taken_and_pass_gradients_on() -> None:
    class From(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.lstm = nn.Linear(8, 3), nn.LSTM(8, 3)
            self.gru = nn.GRU(3, 3)

        def forward(self, inputs: Tensor) -> Tensor:
            state = self.first(inputs.mean(dim=1))[None]
            outputs, (h, c) = self.lstm(inputs.transpose(0, 1), (state, state.tanh()))
            again, last = self.gru(outputs, h * c)
            found: Tensor = again.transpose(0, 1) + last.transpose(0, 1)
            return found

    torch.manual_seed(0)
    inputs, labels = records("lstm", 7)

    assert_exact(Headed(From(), 3).double(), inputs, labels, [1, 4, 2], 1e-10)


def test_a_parameter_beside_its_layer_is_refused() -> None:
    """It would be in the sum unclipped, or not at all."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.layer(inputs) + inputs[:, :1] * self.layer.bias
            return found

    inputs, labels = records("mlp", 3)
    with pytest.raises(NoGradient, match="outside of its layer"):
        sums_of(EngineSums, Beside().double(), inputs, labels, [1, 2], bound=1.0)


def test_a_layer_with_two_inputs_and_no_rule_is_refused_by_name() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = nn.Bilinear(8, 8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.pair(inputs, inputs)
            return found

    inputs, labels = records("mlp", 3)
    with pytest.raises(UntrainableLayer, match="Bilinear is called with 2"):
        sums_of(EngineSums, Pair().double(), inputs, labels, [1, 2], bound=1.0)


def test_a_sequence_without_records_is_refused() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.lstm(inputs)[0]
            return found

    inputs, labels = records("mlp", 3)
    with pytest.raises(NotPerRecord, match="records in a dimension"):
        sums_of(EngineSums, One().double(), inputs, labels, [1, 2], bound=1.0)


# --- A layer without a rule -----------------------------------------------------------------------


def test_a_layer_without_a_rule_is_opacus_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = network("by opacus")
    with caplog.at_level(logging.INFO, logger="fedward.privacy"):
        source = EngineSums(model, bound=1.0, clipping="flat", precision=Precision())
        for _ in range(3):
            inputs, labels = records("by opacus", 3)
            source.of(lambda y, _: y.sum(dim=1), inputs, labels, torch.tensor([1, 2]))

    assert [record.getMessage() for record in caplog.records] == [
        "layer 'layer.0', ConvTranspose1d: gradients by Opacus, more slowly",
        "layer 'layer.1', PReLU: gradients by Opacus, more slowly",
    ]


# --- Beside the reference, and what is left behind ------------------------------------------------

# What Opacus refuses, or is refused with Opacus; it computes checkpointed layers twice.
ALONE = ("attention", "transformer", "packed", "checkpointed", "reflected", "embedding")
BY_BOTH = [name for name in KINDS if not any(word in name for word in ALONE)]


@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
@pytest.mark.parametrize("name", BY_BOTH)
def test_opacus_hooks_have_the_same_sums(name: str, clipping: str) -> None:
    inputs, labels = records(name, 7)
    one, other = (
        sums_of(kind, network(name), inputs, labels, [1, 4, 2], bound=0.2, clipping=clipping)  # type: ignore[arg-type]
        for kind in (EngineSums, HookedSums)
    )

    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "why"), [("convolution, reflected", "zeros"), ("embedding", "padding_idx")]
)
def test_where_opacus_would_be_wrong_it_is_refused(name: str, why: str) -> None:
    with pytest.raises(UntrainableLayer, match=f"by Opacus: .*{why}"):
        refuse_unprotected(network(name), "opacus")


@pytest.mark.parametrize("name", KINDS)
def test_the_model_is_left_as_it_was(name: str) -> None:
    inputs, labels = records(name, 3)
    model = network(name)
    before = {path: p.clone() for path, p in model.named_parameters()}

    sums_of(EngineSums, model, inputs, labels, [1, 2], bound=1.0)

    assert not any("forward" in vars(layer) for layer in model.modules())
    assert {path: type(p) for path, p in model.named_parameters()} == dict.fromkeys(
        before, nn.Parameter
    )
    assert all(torch.equal(p, before[path]) for path, p in model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_where_a_pass_fails_the_model_is_left_as_it_was() -> None:
    model = Headed(Words(), 11).double()
    inputs, labels = records("mlp", 3)

    with pytest.raises(IndexError):
        sums_of(EngineSums, model, inputs, labels, [1, 2], bound=1.0)

    assert not any("forward" in vars(layer) for layer in model.modules())


@pytest.mark.parametrize("name", [n for n in KINDS if n != "by opacus" and "checkpointed" not in n])
@pytest.mark.parametrize("half", ["bfloat16", "float16"])
def test_in_half_precision_sums_are_float32_and_nobody_is_longer_than_the_bound(
    half: Kind, name: str
) -> None:
    model = network(name, torch.float32)
    inputs, labels = records(name, 3, torch.float32)

    found = sums_of(EngineSums, model, inputs, labels, [3], bound=1e-3, precision=Precision(half))

    each = of_patients(model, inputs, labels, [3])
    assert found.dtype == torch.float32
    assert 0.99e-3 <= found.double().norm() <= 1e-3 * (1 + 1e-6)
    assert torch.cosine_similarity(found, each[0], dim=0) > 0.99
