"""Families at their usual sizes have as many weights as published."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedward.models.registry import build
from fedward.study.study import Study
from tests.models.small_families import (
    StudyWith,
    Values,
    _monai_s_own_warnings,  # noqa: F401 - a fixture of the whole file
    images,
)


def test_densenet121_has_as_many_weights_as_published(study_with: StudyWith) -> None:
    """Torchvision's has 7,978,856 with 3 channels and 1000 classes."""
    pytest.importorskip("monai")
    classes = [f"c{number}" for number in range(1000)]
    study = study_with(
        {
            "model": {"name": "densenet121"},
            "data": images(3, 64, 64),
            "task": {"kind": "multiclass", "classes": classes},
        }
    )

    assert weights(build(study, seed=0)) == 7_978_856


def test_resnets_have_as_many_weights_as_published(study_with: StudyWith) -> None:
    """Torchvision's have 11,689,512 and 21,797,672."""
    classes = [f"c{number}" for number in range(1000)]
    task = {"kind": "multiclass", "classes": classes}
    for layers, known in ((18, 11_689_512), (34, 21_797_672)):
        model = {"name": "resnet", "layers": layers}
        study = study_with({"model": model, "data": images(3, 64, 64), "task": task})
        assert weights(build(study, seed=0)) == known


@pytest.mark.parametrize(
    ("layers", "known", "normalised"),
    [(11, 132_863_336, 2752), (13, 133_047_848, 2944), (16, 138_357_544, 4224)],
)
def test_vggs_have_as_many_weights_as_published(
    layers: int, known: int, normalised: int, study_with: StudyWith
) -> None:
    """Torchvision's without normalisation; group norms add two for each convolution's channel."""
    study = of_thousand_classes({"name": "vgg", "layers": layers}, study_with)

    with torch.device("meta"):  # half a gigabyte, of which only the size is asked
        assert weights(build(study, seed=0)) == known + 2 * normalised


def test_alexnet_has_as_many_weights_as_published(study_with: StudyWith) -> None:
    """Torchvision's has 61,100,840; group norms add two for each convolution's channel."""
    study = of_thousand_classes({"name": "alexnet"}, study_with)
    channels = 64 + 192 + 384 + 256 + 256

    with torch.device("meta"):
        assert weights(build(study, seed=0)) == 61_100_840 + 2 * channels


def test_efficientnet_b0_has_as_many_weights_as_published(study_with: StudyWith) -> None:
    """Torchvision's has 5,288,548; a group norm has as many as the batch norm it stands for."""
    pytest.importorskip("monai")
    study = of_thousand_classes({"name": "efficientnet"}, study_with)

    assert weights(build(study, seed=0)) == 5_288_548


def of_thousand_classes(model: Values, study_with: StudyWith) -> Study:
    """Of ImageNet's kind: three colours."""
    task = {"kind": "multiclass", "classes": [f"c{number}" for number in range(1000)]}
    return study_with({"model": model, "data": images(3, 64, 64), "task": task})


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
