"""Half the bits inside the network, and all of them in what bounds a patient."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD

from fedward.privacy.gradients.hooks import opacus_form
from fedward.privacy.precision import FLOAT32, Precision
from fedward.privacy.privacy_errors import HalfPrecision
from fedward.privacy.steps import PlainSteps
from tests.privacy.private_networks import (
    NETWORKS,
    Ward,
    clipped_means,
    flat,
    gradient_of,
    loss,
    network,
    private,
    ward_of,
)

HALVES = [Precision("bfloat16"), Precision("float16")]


def plain(precision: Precision, model: nn.Module, ward: Ward) -> Tensor:
    steps = PlainSteps(None, 1, None, torch.Generator().manual_seed(0), precision)
    return gradient_of(steps, model, ward)


def test_float32_is_the_network_itself_bit_for_bit() -> None:
    ward, model = ward_of([4, 3]), network()

    assert torch.equal(FLOAT32.outputs(model, ward.inputs), model(ward.inputs))
    by_hand = torch.autograd.grad(
        functional.cross_entropy(model(ward.inputs), ward.labels), list(model.parameters())
    )
    torch.testing.assert_close(plain(FLOAT32, model, ward), flat(by_hand), rtol=1e-6, atol=1e-7)
    assert type(FLOAT32.apart(copy.deepcopy(model))) is GradSampleModule


def skip_where_pytorch_cannot(kind: str, name: str) -> None:
    if (kind, name) == ("float16", "vendor's kernels"):
        pytest.skip("oneDNN has no LSTM in float16 on every processor")


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_float32_and_nearly_the_same(kind: str, name: str) -> None:
    skip_where_pytorch_cannot(kind, name)
    ward, model = ward_of([9, 5], name), network(name)

    found = Precision(kind).outputs(model, ward.inputs)  # type: ignore[arg-type]

    whole = model(ward.inputs)
    assert found.dtype == torch.float32
    assert not torch.equal(found, whole)
    torch.testing.assert_close(found, whole, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_plain_gradient_is_nearly_the_same(kind: str, name: str) -> None:
    skip_where_pytorch_cannot(kind, name)
    ward, model = ward_of([9, 5], name), network(name)

    found = plain(Precision(kind), model, ward)  # type: ignore[arg-type]

    whole = plain(FLOAT32, model, ward)
    assert found.dtype == torch.float32
    assert (found - whole).norm() < 0.05 * whole.norm()


# --- Private steps --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("bound", [0.05, 1e6])
@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.kind)
def test_a_private_gradient_is_nearly_dp_sgd_s(
    half: Precision, gradients: str, name: str, bound: float
) -> None:
    for seed, sizes in enumerate(([1], [4, 1, 9], [1] * 8)):
        ward, model = ward_of(sizes, name, seed), network(name, seed)
        each = clipped_means(model, ward, bound)

        steps = private(clipping_norm=bound, precision=half, gradients=gradients)

        found = gradient_of(steps, model, ward)

        assert found.dtype == torch.float32
        assert (found - each.sum(dim=0)).norm() <= 0.05 * each.norm(dim=1).sum()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.kind)
def test_one_patient_s_gradient_is_never_longer_than_the_bound(
    half: Precision, gradients: str, name: str
) -> None:
    """In eight bits it would be longer by up to one part in 256, and the noise too small."""
    for seed in range(20):
        ward, model = ward_of([3], name, seed, size=5.0), network(name, seed)

        steps = private(clipping_norm=0.01, precision=half, gradients=gradients)
        found = gradient_of(steps, model, ward)

        assert found.double().norm() <= 0.01 * (1 + 1e-6)


def kept_apart(module: GradSampleModule, ward: Ward, half: Precision) -> set[torch.dtype]:
    outputs = half.outputs(module, ward.inputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        loss(outputs, ward.labels).sum().backward()
    return {vars(p)["grad_sample"].dtype for p in module.parameters()}


@pytest.mark.parametrize("half", HALVES, ids=lambda half: half.kind)
@pytest.mark.parametrize("name", [n for n in NETWORKS if n != "a parameter of its own"])
def test_opacus_alone_would_bound_patients_in_half(name: str, half: Precision) -> None:
    ward = ward_of([4, 3], name)

    form = opacus_form(network(name))
    alone = kept_apart(GradSampleModule(form, loss_reduction="sum"), ward, half)

    assert alone - {torch.float32}
    assert kept_apart(half.apart(opacus_form(network(name))), ward, half) == {torch.float32}


def test_a_layer_that_keeps_too_few_bits_stops_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Precision, "apart", lambda _, model: GradSampleModule(model, loss_reduction="sum")
    )

    with pytest.raises(HalfPrecision, match="fewer bits"):
        gradient_of(private(precision=HALVES[0], gradients="opacus"), network(), ward_of([4, 3]))


def test_noise_is_the_same_as_in_float32() -> None:
    """The same noise, bit for bit, on a step without anybody."""
    found = []
    for precision in (FLOAT32, *HALVES):
        steps = private(sampling_rate=1e-9, noise_multiplier=1.0, precision=precision)
        model, nobody = network(), ward_of([1]).only(torch.arange(0))
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        batch = next(iter(steps.batches(nobody.patients)))
        steps.gradient(loss, nobody.inputs, nobody.labels, batch.patients)
        found.append(flat([p.grad for p in model.parameters() if p.grad is not None]))

    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].norm() > 0


# --- float16's scale ------------------------------------------------------------------------------


def halves_of(parameter: Tensor, inputs: Tensor) -> Tensor:
    """A gradient that went through float16 on its way."""
    return (parameter.half() * inputs.half()).float().sum()


def test_small_gradients_do_not_vanish_in_float16() -> None:
    parameter = torch.ones(1, requires_grad=True)
    tiny = torch.full((1,), 1.0)

    Precision("float16").backward(halves_of(parameter, tiny) * 1e-9, [parameter])

    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(1e-9, rel=1e-2)


def test_an_overflow_halves_the_scale_and_leaves_out_no_step() -> None:
    parameter = torch.ones(1, requires_grad=True)

    Precision("float16").backward(halves_of(parameter, torch.ones(1)) * 3e4, [parameter])

    assert parameter.grad is not None
    assert parameter.grad.item() == pytest.approx(3e4, rel=1e-2)


def test_a_gradient_that_is_not_finite_stays_so() -> None:
    parameter = torch.ones(1, requires_grad=True)

    Precision("float16").backward(parameter.sum() * float("nan"), [parameter])

    assert parameter.grad is not None
    assert parameter.grad.isnan().all()
