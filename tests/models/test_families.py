"""Every family: it builds, learns, and can be trained privately with exact gradients."""

from __future__ import annotations

import copy
import math
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.client.training import train
from fedward.models import flat
from fedward.models.registry import FAMILIES, build
from fedward.models.task import task_of
from fedward.models.travelling import head
from fedward.privacy.gradients.hooks import opacus_form
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.precision import FLOAT32
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import PlainSteps
from fedward.study.errors import StudyError
from tests.models.small_families import (
    CASES,
    DNA,
    PRIVATE,
    SEQUENCES,
    TABLE,
    TEXT,
    Case,
    StudyWith,
    Values,
    _monai_s_own_warnings,  # noqa: F401 - a fixture of the whole file
    built,
    each_case,
    images,
    in_double,
    toy,
    trained_of,
)


def test_every_family_has_a_case() -> None:
    pretrained = {"huggingface"}  # needs a folder: tests/models/test_huggingface.py
    assert {case.model["name"] for case in CASES.values()} | pretrained == set(FAMILIES)


@pytest.mark.parametrize("case", each_case(lambda case: case.model["name"] != "gan"))
def test_what_stays_as_a_head_is_the_layer_that_answers_last(
    case: Case, study_with: StudyWith
) -> None:
    """Layers are registered in the order in which they are used, at least at the end.

    A GAN has no head: a study that makes images keeps no layer at the hospitals.
    """
    study, model = built(case, study_with)
    called: list[str] = []
    for path, layer in model.named_modules():
        if [*layer.parameters(recurse=False)]:
            layer.register_forward_hook(lambda *_, path=path: called.append(path))

    model.eval()(toy(study, 5).whole)

    assert head(model, 1) == {called[-1]}


@pytest.mark.parametrize("case", each_case())
def test_a_network_answers_for_each_record_by_itself(case: Case, study_with: StudyWith) -> None:
    study, model = built(case, study_with)
    records = toy(study, 5)

    outputs = model.eval()(records.whole)

    task = task_of(study)
    truth = task.truth(records.whole, records.whole_labels)
    assert task.loss(outputs, truth).shape == (5,)
    assert task.sums(outputs, truth).shape == (task.size,)
    expected: dict[str, tuple[int, ...]] = {
        "binary": (5, 2),
        "segmentation": (5, 2, *records.whole.shape[2:]),
        "reconstruction": (5, math.prod(records.whole.shape[1:]) + 1),
        "generation": (5, 1 + 1 + math.prod(records.whole.shape[1:])),
    }
    assert outputs.shape == expected[study.task.kind]
    inputs = in_double(records.whole)
    alone = torch.cat([model.double()(record[None]) for record in inputs])
    answers = slice(0, 1) if study.task.kind == "generation" else slice(None)  # not of pictures
    torch.testing.assert_close(model(inputs)[:, answers], alone[:, answers])


@pytest.mark.parametrize("case", each_case())
def test_one_round_makes_the_loss_fall_and_moves_every_parameter(
    case: Case, study_with: StudyWith
) -> None:
    study, model = built(
        case, study_with, training={"rounds": 1, "local_epochs": 1, "learning_rate": case.rate}
    )
    adam = study.training.model_copy(update={"optimizer": "adam"})
    study = study.model_copy(update={"training": adam})
    records, task = toy(study, 64), task_of(study)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    steps = PlainSteps(
        batch_size=16, epochs=6, steps=None, generator=torch.Generator().manual_seed(0)
    )
    started = mean_loss(model, task, records)

    torch.manual_seed(0)
    train(model, records, study, task, steps)

    assert mean_loss(model, task, records) < 0.85 * started
    now = dict(model.named_parameters())
    assert [name for name, was in before.items() if torch.equal(now[name], was)] == []


@torch.no_grad()
def mean_loss(model: nn.Module, task: Any, records: Records) -> float:  # noqa: ANN401
    model.eval()
    truth = task.truth(records.whole, records.labels)
    return float(task.loss(model(records.whole), truth).mean())


@pytest.mark.parametrize("case", each_case(lambda case: case.model["name"] != "gan"))
def test_each_record_s_gradient_is_what_it_is_alone(case: Case, study_with: StudyWith) -> None:
    """Of the private form, whose state the plain network takes; `test_gan` has a GAN's own."""
    study, model = built(case, study_with, privacy=PRIVATE)
    _, plain = built(case, study_with)
    refuse_unprotected(model)
    records, task = toy(study, 4), task_of(study)
    truth = task.truth(records.whole, records.whole_labels)
    plain.load_state_dict(flat.named(model))
    model, plain = model.double(), plain.double()
    inputs = in_double(records.whole)
    torch.testing.assert_close(plain.eval()(inputs), model.eval()(inputs))
    alone = copy.deepcopy(model)
    for network in (model, alone):
        network.train()
        for layer in network.modules():
            if not list(layer.parameters()):  # dropout and drawn codes are another each time
                layer.eval()
    watched = copy.deepcopy(model)
    hooked = FLOAT32.apart(opacus_form(watched))  # of the same parameters

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        task.loss(hooked(inputs), in_double(truth)).sum().backward()

    for place in range(4):
        alone.zero_grad()
        one = slice(place, place + 1)
        task.loss(alone(inputs[one]), in_double(truth[one])).sum().backward()
        for (name, p), q in zip(alone.named_parameters(), watched.parameters(), strict=True):
            assert p.grad is not None, name
            found: Tensor = vars(q)["grad_sample"][place]
            torch.testing.assert_close(found, p.grad, atol=1e-7, rtol=1e-5, msg=name)


@pytest.mark.parametrize("case", each_case())
def test_a_private_round_trains_it(case: Case, study_with: StudyWith) -> None:
    study, model = built(case, study_with, privacy=PRIVATE)
    before = trained_of(model)
    steps = PatientSteps(
        noise_multiplier=1e-3,
        clipping_norm=1.0,
        sampling_rate=0.5,
        records_per_patient=1,
        divisor=4.0,
        steps=2,
        sampling=SecretStream.pretended(0, "sample"),
        noise=SecretStream.pretended(0, "noise"),
    )

    train(model, toy(study, 8), study, task_of(study), steps)

    assert (trained_of(model) != before).double().mean() > 0.9
    _, plain = built(case, study_with)
    plain.load_state_dict(flat.named(model))
    for name, entry in flat.named(model).items():
        assert torch.equal(entry, plain.state_dict()[name])


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_comes_after_a_record_s_end_changes_nothing(name: str, study_with: StudyWith) -> None:
    """A longer study's records are the same with more padding."""
    case = CASES[name]
    longer = case._replace(data=case.data | {"length": case.data["length"] + 4})
    study, model = built(case, study_with)
    _, wide = built(longer, study_with)
    inputs = toy(study, 6).whole
    padded = torch.cat([inputs, inputs.new_zeros(*inputs.shape[:-1], 4)], dim=-1)
    weights = model.state_dict()
    if "encoder.places.weight" in weights:
        more = wide.state_dict()["encoder.places.weight"][-4:]
        weights["encoder.places.weight"] = torch.cat([weights["encoder.places.weight"], more])
    if case.model.get("pooling") == "places":
        more = wide.state_dict()["head.weight"][:, weights["head.weight"].shape[1] :]
        weights["head.weight"] = torch.cat([weights["head.weight"], more], dim=1)
    wide.load_state_dict(weights)

    torch.testing.assert_close(wide.eval()(padded), model.eval()(inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_record_of_nothing_but_padding_is_answered_for(name: str, study_with: StudyWith) -> None:
    study, model = built(CASES[name], study_with)

    assert model.eval()(torch.zeros_like(toy(study, 2).whole)).isfinite().all()


def test_the_other_direction_begins_at_the_record_s_end(study_with: StudyWith) -> None:
    """A network that reads both ways says of a turned record what it says with them exchanged."""
    case = Case({"name": "gru", "hidden": 5, "bidirectional": True, "reads": "mean"}, DNA)
    study, model = built(case, study_with)
    inputs = toy(study, 4).whole
    turned = torch.stack([torch.cat([r[r != 0].flip(0), r[r == 0]]) for r in inputs])
    exchanged = copy.deepcopy(model)
    for layer in exchanged.get_submodule("forth"), exchanged.get_submodule("back"):
        assert isinstance(layer, nn.ModuleList)
    weights = model.state_dict()
    swapped = {_other(name): entry for name, entry in weights.items()}
    swapped["head.weight"] = weights["head.weight"].roll(5, dims=1)
    exchanged.load_state_dict(swapped)

    torch.testing.assert_close(exchanged.eval()(turned), model.eval()(inputs))


def _other(name: str) -> str:
    way, _, rest = name.partition(".")
    return f"{ {'forth': 'back', 'back': 'forth'}.get(way, way) }.{rest}"


@pytest.mark.parametrize(
    ("model", "changes", "key", "says"),
    [
        ("unet", {"data": images(1, 8, 8)}, "model.name", "segmentation"),
        ("mlp", {"task": {"kind": "reconstruction"}}, "model.name", "autoencoder"),
        ("lstm", {"data": TABLE}, "model.name", "signal or tokens"),
        ("small_cnn", {"data": images(1, 8, 8, 8)}, "model.name", "image"),
        ("vgg", {"data": images(1, 15, 40)}, "data.shape", "16"),
        ("densenet121", {"data": images(1, 28, 28)}, "data.shape", "32"),
    ],
)
def test_what_a_family_does_not_take_is_refused(
    model: str, changes: Values, key: str, says: str, study_with: StudyWith
) -> None:
    if changes.get("task"):
        changes = changes | {"data": TABLE | {"label": []}}
    study = study_with({"model": {"name": model}, **changes})

    with pytest.raises(StudyError) as caught:
        build(study, seed=0)
    assert caught.value.key == key
    assert says in caught.value.allowed


@pytest.mark.parametrize("name", ["transformer", "vit"])
def test_heads_share_the_width(name: str, study_with: StudyWith) -> None:
    data = TEXT if name == "transformer" else images(1, 8, 8)

    with pytest.raises(StudyError, match="width"):
        build(study_with({"model": {"name": name, "width": 10}, "data": data}), seed=0)


def test_the_page_of_models_names_every_family_and_task() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_0-9]+)`", page))

    assert set(FAMILIES) <= named
    assert {task for family in FAMILIES.values() for task in family.tasks} <= named
