"""From a study to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from torch import nn

from fedward.models import flat
from fedward.models.registry import FAMILIES, build
from fedward.study.errors import StudyError
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]

TABLE = {"kind": "table", "label": "y", "features": {"a": {}, "b": {"categories": [1, 2, 3]}}}
IMAGES = {"kind": "images", "shape": [1, 28, 28]}
FITTING = [
    ({"model": {"name": "mlp"}, "data": TABLE}, (4,)),
    ({"model": {"name": "mlp", "hidden": []}, "data": TABLE}, (4,)),
    ({"model": {"name": "small_cnn"}, "data": IMAGES}, (1, 28, 28)),
    (
        {
            "model": {"name": "small_cnn", "channels": [3, 5], "hidden": 7, "dropout": 0.5},
            "data": IMAGES | {"shape": [3, 9, 14]},
        },
        (3, 9, 14),
    ),
    ({"model": {"name": "small_cnn"}, "data": IMAGES | {"shape": [2, 1, 1]}}, (2, 1, 1)),
]


@pytest.mark.parametrize(("changes", "shape"), FITTING)
@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]])
def test_a_network_takes_the_study_s_records_and_answers_for_its_classes(
    changes: Mapping[str, object],
    shape: tuple[int, ...],
    classes: list[str],
    study_with: StudyWith,
) -> None:
    kind = "binary" if len(classes) == 2 else "multiclass"
    study = study_with({**changes, "task": {"kind": kind, "classes": classes}})

    outputs = build(study, seed=0)(torch.zeros(5, *shape))

    assert outputs.shape == (5, len(classes))
    assert outputs.isfinite().all()


@pytest.mark.parametrize(("changes", "shape"), FITTING)
def test_every_network_can_be_trained_privately(
    changes: Mapping[str, object], shape: tuple[int, ...], study_with: StudyWith
) -> None:
    model = build(study_with(changes), seed=0)

    assert ModuleValidator.validate(model, strict=False) == []
    assert all(v.is_floating_point() for v in model.state_dict().values())
    assert shape


@pytest.mark.parametrize(("changes", "shape"), FITTING)
def test_no_record_s_output_depends_on_another_record(
    changes: Mapping[str, object], shape: tuple[int, ...], study_with: StudyWith
) -> None:
    model = build(study_with(changes), seed=0).eval()
    records = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))

    together = model(records)

    alone = torch.cat([model(record[None]) for record in records])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("changes", [FITTING[0][0], FITTING[2][0]])
def test_the_seed_decides_the_weights(changes: Mapping[str, object], study_with: StudyWith) -> None:
    study = study_with(changes)
    one, again, other = (flat.flatten(build(study, seed=seed)) for seed in (1, 1, 2))

    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_building_leaves_the_global_randomness_alone(study_with: StudyWith) -> None:
    study = study_with({})
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)

    build(study, seed=0)

    assert torch.equal(torch.rand(3), expected)


def test_an_mlp_without_hidden_layers_is_one_linear_layer(study_with: StudyWith) -> None:
    model = build(study_with({"model": {"name": "mlp", "hidden": []}, "data": TABLE}), seed=0)

    assert sum(p.numel() for p in model.parameters()) == 4 * 2 + 2
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())


def test_an_mlp_has_the_hidden_layers_of_the_study(study_with: StudyWith) -> None:
    model = build(study_with({"model": {"name": "mlp", "hidden": [6, 5]}, "data": TABLE}), seed=0)

    shapes = [tuple(p.shape) for p in model.parameters() if p.ndim == 2]
    assert shapes == [(6, 4), (5, 6), (2, 5)]


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"model.name": "mpl"}, "model.name", "did you mean mlp?"),
        ({"model.name": "transfomer"}, "model.name", "did you mean transformer?"),
        ({"model.hiden": [3]}, "model.hiden", "did you mean hidden?"),
        ({"model": {"name": "mlp", "hidden": 3}}, "model.hidden", "array"),
        (
            {"model": {"name": "small_cnn", "hidden": [3]}, "data": IMAGES},
            "model.hidden",
            "integer",
        ),
        ({"model": {"name": "mlp", "hidden": [0]}}, "model.hidden.0", "greater"),
        ({"model": {"name": "mlp", "hidden": [2.5]}}, "model.hidden.0", "integer"),
        ({"model": {"name": "mlp", "hidden": ["3"]}}, "model.hidden.0", "integer"),
        (
            {"model": {"name": "small_cnn", "channels": []}, "data": IMAGES},
            "model.channels",
            "at least 1",
        ),
        ({"model": {"name": "small_cnn", "dropout": 1}}, "model.dropout", "less than 1"),
        ({"model": {"name": "small_cnn", "groups": 0}}, "model.groups", "greater"),
        ({"model": {"name": "mlp"}, "data": IMAGES}, "model.name", "features"),
        ({"model": {"name": "small_cnn"}, "data": TABLE}, "model.name", "image"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_its_key(
    changes: Mapping[str, object], key: str, says: str, study_with: StudyWith
) -> None:
    with pytest.raises(StudyError) as caught:
        build(study_with(changes), seed=0)
    assert caught.value.key == key
    assert says in caught.value.allowed


def test_the_registry_calls_each_family_by_its_name() -> None:
    assert {name: family.name for name, family in FAMILIES.items()} == {
        name: name for name in FAMILIES
    }
    assert {"mlp", "small_cnn"} <= set(FAMILIES)


def test_a_refusal_imports_no_other_package_s_models(
    study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("other packages were looked at")

    monkeypatch.setattr("fedward.models.registry.installed", asked)

    with pytest.raises(StudyError, match="for such records linear, mlp"):
        build(study_with({"model": {"name": "vit"}, "data": TABLE}), seed=0)
