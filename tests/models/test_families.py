"""Every family: it builds, learns, and can be trained privately with exact gradients."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fedward.client.data.records import Records
from fedward.client.training import train
from fedward.models import flat
from fedward.models.inputs import inputs_of
from fedward.models.registry import FAMILIES, build
from fedward.models.task import task_of
from fedward.models.travelling import head
from fedward.privacy.gradients.hooks import opacus_form
from fedward.privacy.patient_steps import PatientSteps
from fedward.privacy.precision import FLOAT32
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.secret_stream import SecretStream
from fedward.privacy.steps import LocalSteps, PlainSteps
from fedward.study.errors import StudyError
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


def _each(only: Callable[[Case], bool] = lambda _: True) -> list[Any]:
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


def test_every_family_has_a_case() -> None:
    pretrained = {"huggingface"}  # needs a folder: tests/models/test_huggingface.py
    assert {case.model["name"] for case in CASES.values()} | pretrained == set(FAMILIES)


@pytest.mark.parametrize("case", _each(lambda case: case.model["name"] != "gan"))
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


@pytest.mark.parametrize("case", _each())
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


@pytest.mark.parametrize("case", _each())
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


@pytest.mark.parametrize("case", _each(lambda case: case.model["name"] != "gan"))
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


def trained_of(model: nn.Module) -> Tensor:
    """What is trained, in one row."""
    return torch.cat([p.detach().flatten().clone() for p in model.parameters() if p.requires_grad])


def in_double(numbers: Tensor) -> Tensor:
    """Normalising few pixels makes single precision's last bits large."""
    return numbers.double() if numbers.is_floating_point() else numbers


@pytest.mark.parametrize("case", _each())
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


def test_the_page_of_models_names_every_family_and_task() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_0-9]+)`", page))

    assert set(FAMILIES) <= named
    assert {task for family in FAMILIES.values() for task in family.tasks} <= named


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", _each())
def test_a_gpu_answers_what_the_processor_answers(
    case: Case, study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    study, model = built(case, study_with)
    inputs = toy(study, 5).whole
    answers = slice(0, 1) if study.task.kind == "generation" else slice(None)  # not of pictures

    expected = model.eval()(inputs)[:, answers]
    found = model.cuda()(inputs.cuda())[:, answers]

    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("case", _each())
def test_a_gpu_takes_a_step(case: Case, private: bool, study_with: StudyWith) -> None:
    study, model = built(case, study_with, **({"privacy": PRIVATE} if private else {}))
    model = model.cuda()
    before = trained_of(model)
    steps: LocalSteps = (
        PatientSteps(
            noise_multiplier=1e-3,
            clipping_norm=1.0,
            sampling_rate=0.5,
            records_per_patient=1,
            divisor=4.0,
            steps=1,
            sampling=SecretStream.pretended(0, "sample"),
            noise=SecretStream.pretended(0, "noise"),
        )
        if private
        else PlainSteps(
            batch_size=8, epochs=None, steps=1, generator=torch.Generator().manual_seed(0)
        )
    )

    train(model, toy(study, 8).to(torch.device("cuda")), study, task_of(study), steps)

    after = trained_of(model)
    assert after.is_cuda
    assert after.isfinite().all()
    assert (after != before).any()
