"""What cannot be trained privately is replaced where that is possible, and by name."""

from __future__ import annotations

import logging

import pytest
import torch
from opacus.layers import DPMultiheadAttention
from torch import Tensor, nn

from fedward.models import flat, registry
from fedward.models.family import Family
from fedward.models.private_form import private_form
from fedward.privacy.privacy_errors import UntrainableLayer
from fedward.privacy.private_model import refuse_unprotected
from fedward.study.frozen import Frozen
from fedward.study.study import Study
from tests.models.test_registry import IMAGES, StudyWith


class Mixed(nn.Module):
    """Everything that has to be replaced, at two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.over_time = nn.LSTM(8, 6, batch_first=True)
        self.back = nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        steps = self.seen(inputs).flatten(2).transpose(1, 2)
        steps = self.back(self.over_time(steps)[0])[0]
        found: Tensor = self.head(steps.mean(dim=1))
        return found


def test_each_replaced_layer_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fedward.models"):
        private = private_form(Mixed())

    refuse_unprotected(private)
    assert [record.getMessage() for record in caplog.records] == [
        "layer 'seen.1': GroupNorm in the place of BatchNorm2d, for privacy",
    ]


def test_nothing_works_in_place_and_the_given_network_stays_as_it_was() -> None:
    model = Mixed()

    private = private_form(model)

    assert not any(getattr(layer, "inplace", False) for layer in private.modules())
    assert model.seen[2].inplace
    assert isinstance(model.seen[1], nn.BatchNorm2d)


def test_recurrent_layers_compute_what_they_did() -> None:
    """All but the batch norm, which has no equal, keep their weights and their names."""
    torch.manual_seed(0)
    model = Mixed()
    model.seen[1] = nn.Identity()
    private = private_form(model)
    inputs = torch.randn(3, 1, 7, 7)

    torch.testing.assert_close(private(inputs), model(inputs))
    flat.load(private, flat.flatten(private) + 1)
    assert len(flat.flatten(private)) == sum(entry.numel() for entry in model.parameters())
    assert flat.named(private).keys() == model.state_dict().keys()
    model.load_state_dict(flat.named(private))
    torch.testing.assert_close(private(inputs), model(inputs))


class Own(nn.BatchNorm2d):
    """PyTorch's own under another name."""


class Rectified(nn.BatchNorm2d):
    """One that computes something else."""

    def forward(self, inputs: Tensor) -> Tensor:
        return super().forward(inputs).relu()


class OwnInstances(nn.InstanceNorm2d):
    """PyTorch's own under another name."""


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, Own, nn.SyncBatchNorm])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("running", [True, False])
def test_every_batch_norm_becomes_a_group_norm(
    kind: type[nn.BatchNorm2d], affine: bool, running: bool
) -> None:
    layer = kind(8, affine=affine, track_running_stats=running)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), layer.requires_grad_(False))

    private = private_form(model)

    found = private.get_submodule("1")
    assert isinstance(found, nn.GroupNorm)
    assert found.affine == affine
    refuse_unprotected(private)


@pytest.mark.parametrize("kind", [nn.InstanceNorm2d, OwnInstances])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_of_each_image_forgets_its_running_statistics(
    kind: type[nn.InstanceNorm2d], affine: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), kind(8, affine=affine, track_running_stats=True))
    inputs = torch.randn(3, 1, 7, 7)

    private = private_form(model)

    refuse_unprotected(private)
    torch.testing.assert_close(private(inputs), model(inputs))
    assert [name for name, _ in private.named_buffers()] == []
    flat.load(private, flat.flatten(private) + 1)


def test_a_norm_that_computes_something_else_is_left_to_be_refused_by_its_name() -> None:
    private = private_form(nn.Sequential(nn.Conv2d(1, 8, 3), Rectified(8)))

    with pytest.raises(UntrainableLayer, match="layer '1', Rectified"):
        refuse_unprotected(private)


def test_attention_stays_what_it_is() -> None:
    """Opacus' replacement is another function, and takes no weights by its state dict."""
    model = nn.Sequential(nn.Linear(6, 6), nn.MultiheadAttention(6, 2, batch_first=True))
    private = private_form(model)

    assert isinstance(private.get_submodule("1"), nn.MultiheadAttention)
    refuse_unprotected(private)
    with pytest.raises(UntrainableLayer, match=r"layer '1', MultiheadAttention.* by Opacus"):
        refuse_unprotected(private, "opacus")
    opacus: nn.Module = DPMultiheadAttention(6, 2)  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="copy of its weights"):
        flat.load(opacus, flat.flatten(opacus))


def test_a_private_study_s_network_is_in_that_form(
    study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = Family("mixed", Frozen, lambda *_: Mixed(), inputs=("image",))
    monkeypatch.setitem(registry.FAMILIES, "mixed", family)
    changes = {"model": {"name": "mixed"}, "data": IMAGES}
    local = {"mode": "local", "epsilon": 8.0, "delta": 1e-5, "sampling_rate": 0.1}

    def layers(study: Study) -> set[str]:
        return {type(layer).__name__ for layer in registry.build(study, seed=0).modules()}

    plain, private = study_with(changes), study_with({**changes, "privacy": local})

    assert {"BatchNorm2d", "LSTM", "GRU"} <= layers(plain)
    assert {"GroupNorm", "LSTM", "GRU"} <= layers(private)
    assert "BatchNorm2d" not in layers(private)
    one, other = (registry.build(private, seed=7).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
