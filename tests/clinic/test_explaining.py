"""Explanations follow the model: parts add up, what matters is found, other weights say other."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from fedward.clinic.asked_model import AskedModel
from fedward.clinic.explaining import Method, explain
from fedward.clinic.explanation_picture import input_names, picture_of, token_names
from fedward.models.registry import build
from fedward.study.errors import OptionError
from fedward.study.study import Study
from fedward.study.table_data import TableData
from tests.models.small_families import CASES, toy, values_of

StudyWith = Callable[[Mapping[str, object]], Study]
INTEGRATED = [
    "mlp",
    "rnn",
    "lstm, padded, both ways, two layers",
    "gru",
    "temporal_cnn",
    "transformer",
    "transformer of signals",
    "bag_of_tokens",
]
PICTURES: Any = {"kind": "images", "shape": [1, 12, 12]}


def asked(name: str, study_with: StudyWith, *, gradients: bool = True) -> tuple[AskedModel, Tensor]:
    """A family's model with smooth answers, and records for it."""
    study = study_with(values_of(CASES[name]))
    model = build(study, seed=3).eval().requires_grad_(requires_grad=False)
    return AskedModel(model, study, None, 0.5, gradients), toy(study, 6).whole


def cnn(study_with: StudyWith) -> tuple[AskedModel, Tensor]:
    study = study_with({"model": {"name": "small_cnn", "channels": [4, 8]}, "data": PICTURES})
    model = build(study, seed=3).eval().requires_grad_(requires_grad=False)
    records = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return AskedModel(model, study, None, 0.5, gradients=True), records


@pytest.mark.parametrize("name", INTEGRATED)
def test_integrated_gradients_add_up_to_what_is_said(name: str, study_with: StudyWith) -> None:
    """Completeness (Sundararajan et al. 2017)."""
    model, records = asked(name, study_with)
    for record in records.split(1):
        found = explain(model, record)
        assert found.method == "integrated-gradients"
        assert found.values.shape == record.shape[1:]
        assert abs(found.difference) > 1e-4
        assert found.values.sum() == pytest.approx(found.difference, abs=0.02, rel=0.03)


def test_padding_adds_nothing(study_with: StudyWith) -> None:
    model, records = asked("lstm, padded, both ways, two layers", study_with)
    for record in records.split(1):
        values = explain(model, record).values
        assert np.allclose(values[:, record[0, -1].numpy() == 0], 0)
        assert np.allclose(values[-1], 0)
    model, records = asked("gru", study_with)
    for record in records.split(1):
        assert np.allclose(explain(model, record).values[record[0].numpy() == 0], 0)


@pytest.mark.parametrize("gradients", [True, False])
def test_a_linear_model_is_explained_by_its_weights(gradients: bool, study_with: StudyWith) -> None:
    model, records = asked("linear", study_with, gradients=gradients)
    weights = model.network.get_parameter("1.weight")
    for record in records.split(1):
        found = explain(model, record, "high")
        known = record[0] * (weights[1] - weights[0])
        assert np.allclose(found.values, known.numpy(), atol=1e-4)


def test_occlusion_finds_the_only_pixels_that_count(study_with: StudyWith) -> None:
    model, records = cnn(study_with)

    class Corner(nn.Module):
        """Says how bright the lower right corner is."""

        def forward(self, inputs: Tensor) -> Tensor:
            bright = inputs[:, 0, 8:, 8:].mean(dim=(1, 2))
            return torch.stack([torch.zeros_like(bright), bright], dim=1)

    record = records[:1].clone() * 0.01
    record[:, :, 8:, 8:] += 1.0
    looking = AskedModel(Corner(), model.study, None, 0.5, gradients=False)
    values = explain(looking, record, "malignant").values
    inside = np.zeros((12, 12), dtype=bool)
    inside[6:, 6:] = True  # a patch of four pixels may begin two before
    assert values[8:, 8:].min() > 0.01
    assert np.abs(values[~inside]).max() < 1e-6
    assert np.allclose(explain(looking, record, "benign").values, -values)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("pictures", "occlusion"),
        ("pictures", "grad-cam"),
        ("mlp", "integrated-gradients"),
        ("transformer of signals", "integrated-gradients"),
        ("gru", "integrated-gradients"),
    ],
)
def test_other_weights_make_another_explanation(
    name: str, method: Method, study_with: StudyWith
) -> None:
    """Model randomisation (Adebayo et al. 2018): what explains the records alone would not fall."""
    model, records = cnn(study_with) if name == "pictures" else asked(name, study_with)
    target = model.study.task.classes[1]
    alike, random = [], []
    for seed in range(4):
        other = copy.deepcopy(model.network)
        source = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weights in other.parameters():
                weights.copy_(weights.flatten()[_order(weights, source)].view_as(weights))
        strange = AskedModel(other, model.study, None, 0.5, gradients=True)
        for record in records.split(1):
            there = record[0].numpy() != 0 if record.ndim == 2 else ...
            truth = explain(model, record, target, method).values
            again = explain(model, record, target, method).values
            random_one = explain(strange, record, target, method).values
            alike.append(spearmanr(truth[there].ravel(), again[there].ravel()).statistic)
            random.append(spearmanr(truth[there].ravel(), random_one[there].ravel()).statistic)
    assert np.nanmin(alike) > 0.999
    assert np.nanmean(random) < 0.5


def _order(weights: Tensor, source: torch.Generator) -> Tensor:
    """The same weights in other places: their size alone is not what is seen."""
    return torch.randperm(weights.numel(), generator=source)


def test_what_cannot_be_explained_is_refused(study_with: StudyWith) -> None:
    model, records = asked("mlp", study_with)
    with pytest.raises(OptionError, match="no class 'ill'; give low, high"):
        explain(model, records[:1], "ill")
    with pytest.raises(OptionError, match="give occlusion or integrated-gradients"):
        explain(model, records[:1], method="grad-cam")
    model, records = asked("linear", study_with, gradients=False)
    with pytest.raises(OptionError, match="give occlusion"):
        explain(model, records[:1], method="integrated-gradients")
    model, records = asked("linear of images", study_with)
    with pytest.raises(OptionError, match="no convolution"):
        explain(model, records[:1], method="grad-cam")
    model, records = asked("autoencoder", study_with)
    with pytest.raises(OptionError, match="leave --target out"):
        explain(model, records[:1], "low")


@pytest.mark.parametrize(
    "name",
    ["mlp", "small_cnn", "vit of volumes", "unet", "rnn", "gru", "transformer", "autoencoder"],
)
def test_every_kind_of_record_has_a_picture(name: str, study_with: StudyWith) -> None:
    if name == "unet":
        pytest.importorskip("monai")
    model, records = asked(name, study_with)
    found = explain(model, records[:1])
    says = "The model says: $x$ 0.5"  # no formula
    content = picture_of(found, records[:1], model.study.data, says)
    picture = Image.open(io.BytesIO(content))
    assert picture.format == "PNG"
    assert picture.width > 600
    pixels = np.asarray(picture.convert("RGB").resize((200, 100))).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20
    other = found._replace(values=-found.values)
    assert picture_of(other, records[:1], model.study.data, says) != content


def test_inputs_and_tokens_have_their_names(study_with: StudyWith) -> None:
    data = study_with({"data.features.age": {"center": 50.0, "absent": -1.0}}).data
    assert isinstance(data, TableData)
    assert input_names(data) == ["age", "age absent", "sex: f", "sex: m"]
    dna = study_with(values_of(CASES["gru"])).data
    assert token_names(np.array([2, 5, 1]), dna) == ["A", "T", "?"]
    buckets = study_with(values_of(CASES["lstm"])).data
    assert token_names(np.array([4, 1]), buckets) == ["#4", "?"]
