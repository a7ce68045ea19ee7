"""A patient's scale in float16 follows from that patient alone, and so does what he adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import ClippedSums
from fedward.privacy.precision import Precision
from tests.privacy.gradients.layer_kinds import flat, loss, network, records
from tests.privacy.private_networks import gradient, private

FLOAT16 = Precision("float16")

# Slopes of a loss: float16 knows the first only enlarged, and the last two only less so; what it
# cannot hold at all counts as zero.
SLOPES = {1e-7: True, 1.0: True, 50.0: True, 2e4: True, 1e5: False, float("nan"): False}


def steep(outputs: Tensor, slopes: Tensor) -> Tensor:
    """A loss whose gradient is what a record says."""
    return outputs[:, 0] * slopes


@pytest.mark.parametrize("gradients", ["fedward", "opacus"])
@pytest.mark.parametrize("clipping", ["flat", "per_layer", "automatic"])
def test_each_patient_has_a_scale_of_his_own(clipping: str, gradients: str) -> None:
    """The smallest gradients are there, the largest are clipped, and nobody moves another's."""
    slopes, inputs = torch.tensor(list(SLOPES)), torch.randn(len(SLOPES), 3)

    def sums(some: list[int], bound: float) -> Tensor:
        steps = private(
            clipping_norm=bound,
            precision=FLOAT16,
            gradients=gradients,
            clipping=clipping,
        )
        model = nn.Linear(3, 1)
        steps.prepare(model, SGD(model.parameters(), lr=0.1))
        (batch,) = steps.batches(torch.arange(len(some)))
        steps.gradient(steep, inputs[some], slopes[some], batch.patients)
        return gradient(model)

    alone = [sums([number], bound=1.0) for number in range(len(SLOPES))]

    together = sums(list(range(len(SLOPES))), bound=1.0)

    torch.testing.assert_close(together, torch.stack(alone).sum(dim=0), rtol=1e-5, atol=1e-7)
    if clipping == "automatic":
        return  # it shortens what is small
    for number, (slope, counts) in enumerate(SLOPES.items()):
        by_hand = slope * torch.cat([inputs[number], torch.ones(1)])
        if not counts:
            assert torch.equal(alone[number], torch.zeros(4))
        elif slope <= 50:
            torch.testing.assert_close(sums([number], bound=1e6), by_hand, rtol=2e-3, atol=0)
        else:
            assert alone[number].norm() > 0.7  # a layer's share, if each has its own
            assert alone[number].norm() <= 1


BY_BOTH = ["linear", "convolution 2d", "group norm", "layer norm", "used often", "small_cnn"]
BY_OURS = ["embedding", "lstm, packed", "attention", "checkpointed", "transformer"]
SIZES = [2, 1, 3, 1, 2, 1]
EACH = torch.tensor([1.0, 1e-3, 300.0, 1e9, 2e3, float("nan")])
COUNTED = [True, True, True, False, True, False]


@pytest.mark.parametrize(
    ("kind", "name"),
    [*((EngineSums, n) for n in BY_BOTH + BY_OURS), *((HookedSums, n) for n in BY_BOTH)],
)
def test_patients_of_several_records_add_what_they_add_alone(
    kind: type[ClippedSums], name: str
) -> None:
    bound, model = 1e-4, network(name, torch.float32)
    inputs, labels = records(name, sum(SIZES), torch.float32)
    whose = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))

    def sums(chosen: list[int]) -> Tensor:
        rows = torch.isin(whose, torch.tensor(chosen))
        slopes = EACH[whose[rows]]

        def steeper(outputs: Tensor, named: Tensor) -> Tensor:
            tried = len(outputs) != len(slopes)  # a new model, on copies of one record
            return loss(outputs, named) * (1 if tried else slopes)

        source = kind(model, bound=bound, clipping="flat", precision=FLOAT16)
        counts = torch.tensor([SIZES[number] for number in chosen])
        return flat(source.of(steeper, inputs[rows], labels[rows], counts))

    alone = [sums([number]) for number in range(len(SIZES))]

    together = sums(list(range(len(SIZES))))

    for own, counted in zip(alone, COUNTED, strict=True):
        assert (float(own.norm()) > 0.9 * bound) if counted else not own.any()
    assert (together - torch.stack(alone).sum(dim=0)).norm() <= 0.02 * bound


@pytest.mark.parametrize("kind", [EngineSums, HookedSums])
def test_every_pass_is_of_the_whole_batch(kind: type[ClippedSums]) -> None:
    """A pass of some could fail where all together do not, and that would tell of somebody."""
    seen: list[int] = []

    class Watched(nn.Linear):
        def forward(self, inputs: Tensor) -> Tensor:
            seen.append(len(inputs))
            return super().forward(inputs)

    model = nn.Sequential(nn.Linear(3, 4), Watched(4, 2).requires_grad_(requires_grad=False))
    source = kind(model, bound=1.0, clipping="flat", precision=FLOAT16)
    inputs, labels = torch.randn(4, 3), torch.tensor([1.0, 50.0, 1.0, float("nan")])
    source.of(steep, inputs, torch.ones(4), torch.ones(4, dtype=torch.int64))
    seen.clear()

    source.of(steep, inputs, labels, torch.ones(4, dtype=torch.int64))

    assert seen == [4, 4, 4]


@pytest.mark.parametrize("kind", [EngineSums, HookedSums])
def test_what_a_model_does_to_its_inputs_is_done_once(kind: type[ClippedSums]) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.layer(inputs.mul_(2))
            return found

    model, inputs = Changing(), torch.randn(2, 3)

    def sums(precision: Precision) -> Tensor:
        source = kind(model, bound=1e9, clipping="flat", precision=precision)
        slopes = torch.tensor([1.0, 2e4])
        return flat(source.of(steep, inputs.clone(), slopes, torch.tensor([1, 1])))

    torch.testing.assert_close(sums(FLOAT16), sums(Precision()), rtol=5e-3, atol=1.0)
