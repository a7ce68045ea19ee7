"""A small network of every family, and records that it learns from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.models.inputs import inputs_of
from fedward.models.registry import FAMILIES, build
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
Values = dict[str, Any]

TABLE: Values = {"kind": "table", "label": "y", "features": {c: {} for c in "abcdef"}}
SIGNAL: Values = {"kind": "signals", "channels": ["i", "ii"], "rate": 100.0, "length": 12}
PADDED = SIGNAL | {"shorter": "pad"}
TEXT: Values = {"kind": "text", "length": 9, "buckets": 20}
DNA: Values = {"kind": "sequence", "length": 9, "alphabet": ["A", "C", "G", "T"]}
PRIVATE: Values = {
    "mode": "local",
    "noise_multiplier": 1.0,
    "delta": 1e-5,
    "sampling_rate": 0.5,
    "accountant": "rdp",
}


def images(*shape: int) -> Values:
    return {"kind": "images", "shape": list(shape)}


class Case(NamedTuple):
    """A small network of a family, and the records it is for."""

    model: Values
    data: Values
    rate: float = 0.003
    slow: bool = False


CASES = {
    "linear": Case({"name": "linear"}, TABLE, 0.1),
    "linear of images": Case({"name": "linear"}, images(1, 6, 5), 0.03),
    "mlp": Case({"name": "mlp"}, TABLE, 0.03),
    "small_cnn": Case({"name": "small_cnn", "channels": [4, 8]}, images(1, 9, 8), 0.01),
    "resnet": Case({"name": "resnet", "width": 8}, images(1, 20, 17), slow=True),
    "resnet, small stem": Case({"name": "resnet", "width": 4, "stem": "small"}, images(1, 8, 8)),
    "resnet34": Case(  # at .003 its loss swings, and where it ends differs between processors
        {"name": "resnet", "layers": 34, "width": 4}, images(2, 16, 16), 0.0003, slow=True
    ),
    "resnet of volumes": Case(
        {"name": "resnet", "width": 4, "stem": "small"}, images(1, 8, 8, 8), slow=True
    ),
    "densenet121": Case(
        {"name": "densenet121", "features": 32, "blocks": [1, 1, 1, 1]},
        images(1, 32, 33),
        slow=True,
    ),
    "efficientnet": Case(
        {"name": "efficientnet", "width": 0.25, "depth": 0.2, "dropout": 0.0, "skip": 0.0},
        images(1, 40, 33),
        slow=True,
    ),
    "vit": Case({"name": "vit", "patch": 4, "width": 16}, images(1, 9, 8)),
    "vit of volumes": Case({"name": "vit", "patch": 4, "width": 16}, images(1, 9, 8, 4)),
    "alexnet": Case(
        {"name": "alexnet", "width": 8, "hidden": 16, "dropout": 0.0}, images(1, 24, 24), slow=True
    ),
    "vgg": Case(
        {"name": "vgg", "width": 8, "hidden": 16, "dropout": 0.0}, images(1, 24, 16), slow=True
    ),
    "inception": Case({"name": "inception", "width": 8}, images(1, 24, 24), slow=True),
    "unet": Case({"name": "unet", "channels": [4, 8, 8]}, images(1, 10, 9), 0.03, slow=True),
    "unet of volumes": Case(
        {"name": "unet", "channels": [4, 8], "residual": 1}, images(1, 5, 6, 7), 0.03, slow=True
    ),
    "rnn": Case({"name": "rnn", "hidden": 8}, SIGNAL, 0.03),
    "lstm": Case({"name": "lstm", "hidden": 8}, TEXT, 0.03),
    "lstm, padded, both ways, two layers": Case(
        {"name": "lstm", "hidden": 6, "layers": 2, "bidirectional": True}, PADDED, 0.03
    ),
    "gru": Case({"name": "gru", "hidden": 8, "reads": "mean"}, DNA, 0.03),
    "gru, both ways": Case({"name": "gru", "hidden": 8, "bidirectional": True}, TEXT, 0.03),
    "temporal_cnn": Case({"name": "temporal_cnn", "width": 8, "blocks": 2}, PADDED, 0.01),
    "temporal_cnn of tokens": Case({"name": "temporal_cnn", "width": 8, "blocks": 2}, DNA, 0.03),
    "transformer": Case({"name": "transformer", "width": 16}, TEXT, 0.01),
    "transformer of signals": Case({"name": "transformer", "width": 16}, PADDED, 0.01),
    "temporal_cnn, places": Case(
        {"name": "temporal_cnn", "width": 8, "blocks": 2, "pooling": "places"}, PADDED, 0.01
    ),
    "transformer, maximum": Case(
        {"name": "transformer", "width": 16, "pooling": "max"}, PADDED, 0.01
    ),
    "bag_of_tokens, maximum": Case(
        {"name": "bag_of_tokens", "width": 16, "pooling": "max"}, TEXT, 0.03
    ),
    "bag_of_tokens, attention": Case(
        {"name": "bag_of_tokens", "width": 8, "pooling": "attention"}, DNA, 0.1
    ),
    "bag_of_tokens": Case({"name": "bag_of_tokens", "width": 8}, TEXT, 0.1),
    "bag_of_tokens, dropout": Case(
        {"name": "bag_of_tokens", "width": 16, "dropout": 0.2}, TEXT, 0.1
    ),
    "bag_of_tokens, hidden": Case({"name": "bag_of_tokens", "width": 8, "hidden": 6}, DNA, 0.1),
    "autoencoder": Case({"name": "autoencoder", "hidden": [8], "code": 3}, TABLE, 0.01),
    "vae": Case({"name": "vae", "hidden": [8], "code": 3, "weight": 0.1}, TABLE, 0.01),
    "gan": Case({"name": "gan", "channels": [4, 8], "code": 4}, images(1, 9, 7), 0.003),
    "autoencoder of signals": Case({"name": "autoencoder", "hidden": []}, SIGNAL, 0.01),
}
SEQUENCES = [
    name for name, case in CASES.items() if case.data in (PADDED, TEXT, DNA) and "auto" not in name
]


def values_of(case: Case) -> Values:
    """The study's tables for a case: its data, a task that its model learns, and its model."""
    family = FAMILIES[case.model["name"]]
    found = {"model": case.model, "data": case.data}
    match family.tasks[0]:
        case "segmentation":
            found["task"] = {"kind": "segmentation", "classes": ["rest", "bright"]}
        case "reconstruction" | "generation":
            found["task"] = {"kind": family.tasks[0]}
            found["data"] = case.data | {"label": []}
        case _:
            found["task"] = {"kind": "binary", "classes": ["low", "high"]}
    return found


def toy(study: Study, count: int, seed: int = 0) -> Records:
    """Records of two kinds that are easy to tell apart, or to mark, or to say in few numbers."""
    source = torch.Generator().manual_seed(seed)
    inputs = inputs_of(study.data)
    labels = torch.arange(count) % 2
    if inputs.kind == "tokens":
        ends = torch.randint(3, inputs.shape[0] + 1, (count, 1), generator=source)
        found = torch.randint(2, inputs.tokens, (count, *inputs.shape), generator=source)
        often = torch.rand(found.shape, generator=source) < 0.6
        found = torch.where(often, 2 + labels.unsqueeze(1), found)
        found = torch.where(torch.arange(inputs.shape[0]) < ends, found, 0)
    else:
        found = torch.randn(count, *inputs.shape, generator=source) / 2
        found = found + (2 * labels - 1).view(-1, *[1] * len(inputs.shape))
        if inputs.padded:
            ends = torch.randint(3, inputs.shape[1] + 1, (count, 1), generator=source)
            there = torch.arange(inputs.shape[1]) < ends
            found[:, :-1] *= there.unsqueeze(1)
            found[:, -1] = there.float()
    if study.task.kind == "segmentation":
        labels = (found[:, 0] > 0).long()
    if study.task.kind in {"reconstruction", "generation"}:
        labels = torch.zeros(count, 0)
    return Records(found, labels, torch.arange(count))


def each_case(only: Callable[[Case], bool] = lambda _: True) -> list[Any]:
    return [
        pytest.param(case, id=name, marks=[pytest.mark.slow] if case.slow else [])
        for name, case in CASES.items()
        if only(case)
    ]


def built(case: Case, study_with: StudyWith, **changes: Values) -> tuple[Study, nn.Module]:
    """Its study and network; what MONAI needs and is not there skips the test."""
    if case.model["name"] in {"unet", "densenet121", "efficientnet"}:
        pytest.importorskip("monai")
    study = study_with({**values_of(case), **changes})
    return study, build(study, seed=3)


@pytest.fixture(scope="module", autouse=True)
def _monai_s_own_warnings() -> None:
    """MONAI warns of things of its own when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import monai.networks.nets  # noqa: F401
        except ImportError:
            return


def trained_of(model: nn.Module) -> Tensor:
    """What is trained, in one row."""
    return torch.cat([p.detach().flatten().clone() for p in model.parameters() if p.requires_grad])


def in_double(numbers: Tensor) -> Tensor:
    """Normalising few pixels makes single precision's last bits large."""
    return numbers.double() if numbers.is_floating_point() else numbers
