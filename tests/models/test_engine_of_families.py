"""Every family by the engine: patients' gradients are those of a loop with plain autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedward.models.gan import Gan
from fedward.models.task import task_of
from fedward.privacy.gradients import engine
from fedward.privacy.gradients.bounds import Clipping, clip_factors
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.known import BY_OPACUS, ruled_layers
from fedward.privacy.precision import FLOAT32
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.steps import Loss
from fedward.study.study import Study
from tests.models.small_families import (
    CASES,
    PRIVATE,
    Case,
    _monai_s_own_warnings,  # noqa: F401 - a fixture of the whole file
    built,
    in_double,
    toy,
)

StudyWith = Callable[[Mapping[str, object]], Study]

RAGGED, ALIKE, SINGLE = [1, 3, 2], [2, 2], [1, 1, 1]  # records of each patient, never none
SINGLE_NEAR = 1e-5
EXACT = 1e-10  # of the length of what is compared, in double precision


class Pass(NamedTuple):
    """A network in double precision, and what one pass over patients' records needs."""

    model: nn.Module
    loss: Loss
    inputs: Tensor
    truth: Tensor
    sizes: list[int]

    def alone(self) -> Tensor:
        """Each patient's mean gradient by plain autograd, shape (patients, numbers)."""
        found = []
        pieces = zip(self.inputs.split(self.sizes), self.truth.split(self.sizes), strict=True)
        for inputs, truth in pieces:
            mean = self.loss(self.model(inputs), truth).mean()
            own = torch.autograd.grad(mean, self.trained(), materialize_grads=True)
            found.append(torch.cat([g.flatten() for g in own]))
        return torch.stack(found)

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def by_engine(self, bound: float, clipping: Clipping) -> Tensor:
        """The clipped sum, shape (numbers,)."""
        sums = EngineSums(self.model, bound=bound, clipping=clipping, precision=FLOAT32)
        found = sums.of(self.loss, self.inputs, self.truth, torch.tensor(self.sizes))
        assert [g.shape for g in found] == [p.shape for p in self.trained()]
        return torch.cat([g.flatten() for g in found])


def passed(case: Case, study_with: StudyWith, sizes: Sequence[int]) -> Pass:
    """The private form of a case's network, without anything that is drawn in training."""
    study, model = built(case, study_with, privacy=PRIVATE)
    refuse_unprotected(model)
    model = model.double().train()
    for layer in model.modules():
        if not list(layer.parameters()):  # dropout and drawn codes are another each time
            layer.eval()
    if isinstance(model, Gan):
        _give_each_record_its_own_code(model)
    records, task = toy(study, sum(sizes)), task_of(study)
    truth = task.truth(records.whole, records.whole_labels)
    return Pass(model, task.loss, in_double(records.whole), in_double(truth), list(sizes))


def _give_each_record_its_own_code(model: Gan) -> None:
    """The same in whatever company it is: its first numbers."""
    size = model.codes(torch.zeros(1, 1))[0].shape[1]

    def forward(beside: Tensor) -> tuple[Tensor, Tensor]:
        return beside.flatten(1)[:, :size], torch.zeros(len(beside), dtype=torch.long)

    vars(model.codes)["forward"] = forward


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_only_what_makes_a_picture_larger_is_left_to_opacus(
    case: Case, study_with: StudyWith
) -> None:
    """Every other layer of every family has a rule of the engine's, and none is refused."""
    _, model = built(case, study_with, privacy=PRIVATE)
    slower = {type(each.layer) for each in ruled_layers(model) if each.rule is BY_OPACUS}

    larger = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    dimensions = len(case.data.get("shape", [])) - 1
    assert slower == ({larger[dimensions]} if case.model["name"] == "unet" else set())


def layers_by_name(model: nn.Module) -> list[list[int]]:
    """Places of the trained parameters that one layer has, by what comes before the last dot."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    paths = [name.rpartition(".")[0] for name in names]
    return [[n for n, own in enumerate(paths) if own == path] for path in dict.fromkeys(paths)]


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).norm() <= EXACT * expected.norm())


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_clipped_sums_and_norms_are_those_of_a_loop_over_the_patients(
    case: Case, study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    squares: list[Tensor] = []

    def listening(found: Tensor, *others: object) -> tuple[Tensor, Tensor]:
        squares.append(found)
        return clip_factors(found, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "clip_factors", listening)
    for sizes in (RAGGED, ALIKE, SINGLE):
        one = passed(case, study_with, sizes)
        each = one.alone()
        norms = each.norm(dim=1)
        assert norms.min() > 1e-3
        assert norms.max() > 1.0001 * norms.min()  # the median clips some

        for bound in (1e6, float(norms.median())):
            found = one.by_engine(bound, "flat")

            shortened = each * (bound / norms).clamp(max=1).unsqueeze(1)
            assert close(found, shortened.sum(dim=0)), (sizes, bound)
            torch.testing.assert_close(squares.pop().sum(dim=0).sqrt(), norms, rtol=EXACT, atol=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_other_ways_to_clip_are_by_their_definition(case: Case, study_with: StudyWith) -> None:
    one = passed(case, study_with, RAGGED)
    each = one.alone()
    norms = each.norm(dim=1, keepdim=True)
    bound = float(norms.median())

    assert close(one.by_engine(bound, "automatic"), (each * bound / (norms + 0.01)).sum(dim=0))

    parts = list(each.split([p.numel() for p in one.trained()], dim=1))
    layers = layers_by_name(one.model)
    shortened = 0
    for layer in layers:
        own = torch.cat([parts[place] for place in layer], dim=1).norm(dim=1, keepdim=True)
        cut = (bound / math.sqrt(len(layers)) / own).clamp(max=1)
        shortened += int((cut < 1).sum())
        for place in layer:
            parts[place] = parts[place] * cut
    assert 0 < shortened < len(layers) * len(each) or len(layers) == 1
    assert close(one.by_engine(bound, "per_layer"), torch.cat(parts, dim=1).sum(dim=0))


def in_single(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def clipped_sum(each: Tensor, bound: float) -> Tensor:
    shortened = each * (bound / each.norm(dim=1)).clamp(max=1).unsqueeze(1)
    total: Tensor = shortened.double().sum(dim=0)
    return total


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_in_single_precision_it_is_as_near_as_plain_autograd(
    case: Case, study_with: StudyWith
) -> None:
    """Beside the loop in double precision; of deep networks the loop in single is far from it."""
    one = passed(case, study_with, RAGGED)
    whole = one.alone()
    bound = float(whole.norm(dim=1).median())
    exact = clipped_sum(whole, bound)
    single = Pass(
        one.model.float(), one.loss, in_single(one.inputs), in_single(one.truth), one.sizes
    )

    found, loop = single.by_engine(bound, "flat").double(), clipped_sum(single.alone(), bound)

    apart = [float((each - exact).norm() / exact.norm()) for each in (found, loop)]
    assert apart[0] <= SINGLE_NEAR + 5 * apart[1]  # two roundings of the same size
