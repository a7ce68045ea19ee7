"""Pretrained encoders: own answers, exact gradients for each patient, adapters that travel."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.client.data.records import Records
from fedward.client.evaluation import mean_loss
from fedward.client.training import train
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.models.tasks.any_task import Task
from fedward.models.travelling import head
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.precision import FLOAT32
from fedward.privacy.private_model import refuse_unprotected
from fedward.privacy.steps import PlainSteps
from fedward.study.errors import DataError, OptionError, StudyError
from fedward.study.study import Study, parse_study
from tests.conftest import StudyWith

pytest.importorskip("transformers")
pytest.importorskip("peft")

from fedward.models.pretrained import FILES, digest_of, find_pretrained
from tests.models.tiny_bert import KINDS, PLACES, write_encoder

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
BODIES = ("frozen", "lora", "full")
LENGTH = 10


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models, one of each kind."""
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        write_encoder(folder / kind, kind)
    return folder


def study_of(study_with: StudyWith, folder: Path, **model: Any) -> Study:  # noqa: ANN401
    return study_with(
        {
            "model": {"name": "huggingface", "pretrained": digest_of(folder), **model},
            "data": {"kind": "text", "length": LENGTH, "tokenizer": "model"},
        }
    )


def records(count: int) -> Tensor:
    """Texts of unequal lengths, 0 after their ends; numbers of tokens plus 1."""
    source = torch.Generator().manual_seed(5)
    ends = torch.randint(3, LENGTH + 1, (count, 1), generator=source)
    found = torch.randint(5, 15, (count, LENGTH), generator=source)
    return torch.where(torch.arange(LENGTH) < ends, found, 0)


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def stirred(model: nn.Module) -> nn.Module:
    """Adapters that do something: B begins as nothing, and A's gradient would be nothing too."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for parameter in trained(model):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reads", ["mean", "first"])
def test_answers_are_the_library_s_own_under_our_head(
    kind: str, reads: str, shelf: Path, study_with: StudyWith
) -> None:
    from transformers import AutoModel

    study = study_of(study_with, shelf / kind, reads=reads)
    model = build(study, seed=0, models=shelf).eval()
    whole = AutoModel.from_pretrained(shelf / kind, local_files_only=True).eval()
    inputs = records(6)

    with torch.no_grad():
        found = model(inputs)
        for text, answer in zip(inputs, found, strict=True):
            pieces = text[text != 0].unsqueeze(0) - 1  # alone, and without anything to fill up
            states = whole(input_ids=pieces).last_hidden_state[0]
            read = states.mean(dim=0) if reads == "mean" else states[0]
            expected = functional.linear(read, model.head.weight, model.head.bias)  # type: ignore[union-attr, arg-type]
            assert torch.allclose(answer, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES)
def test_clipped_sums_are_those_of_a_loop_over_the_patients(
    kind: str, body: str, shelf: Path, study_with: StudyWith
) -> None:
    everywhere = ["query", "key", "value", "output", "feed_forward"]
    study = study_of(study_with, shelf / kind, body=body, targets=everywhere)
    model = stirred(build(study, seed=0, models=shelf)).train()
    refuse_unprotected(model)
    sizes = [1, 3, 2, 1]
    inputs, labels = records(sum(sizes)), torch.arange(sum(sizes)) % 2

    def loss(outputs: Tensor, truth: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, truth, reduction="none")

    each = []
    for some, truth in zip(inputs.split(sizes), labels.split(sizes), strict=True):
        own: tuple[Tensor | None, ...] = torch.autograd.grad(
            loss(model(some), truth).mean(), trained(model), allow_unused=True
        )
        pairs = zip(own, trained(model), strict=True)
        each.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
        )
    norms = torch.stack(each).norm(dim=1)
    assert norms.min() > 1e-3

    for bound in (1e9, float(norms.median()), 0.5 * float(norms.min())):
        sums = EngineSums(model, bound=bound, clipping="flat", precision=FLOAT32)
        found = sums.of(loss, inputs, labels, torch.tensor(sizes))

        by_hand = sum(g * min(1.0, bound / float(g.norm())) for g in each)
        difference = torch.cat([g.flatten() for g in found]) - by_hand
        assert difference.norm() <= 1e-5 * norms.clamp(max=bound).sum()


@pytest.mark.parametrize("body", BODIES)
def test_gradients_reach_every_weight_that_is_trained_and_no_other(
    body: str, shelf: Path, study_with: StudyWith
) -> None:
    study = study_of(study_with, shelf / "bert", body=body)
    model = stirred(build(study, seed=0, models=shelf)).train()
    inputs = torch.arange(1, 11).repeat(PLACES, 1)

    model(inputs).square().sum().backward()

    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
        if parameter.requires_grad:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0, name


def test_only_adapters_and_the_head_travel(shelf: Path, study_with: StudyWith) -> None:
    """Two layers, query and value: rank * (16 + 16) weights each, and a head of 16 * 2 + 2."""
    study = study_of(study_with, shelf / "bert", rank=4)
    model = build(study, seed=0, models=shelf)

    vector = flat.flatten(model)

    assert len(vector) == 2 * 2 * 4 * 32 + 34
    assert all("lora_" in name or name.startswith("head.") for name in flat.named(model))
    body = model.body.embeddings.word_embeddings.weight.clone()  # type: ignore[union-attr, operator]
    flat.load(model, vector + 1)
    assert (flat.flatten(model) == vector + 1).all()
    assert torch.equal(body, model.body.embeddings.word_embeddings.weight)  # type: ignore[union-attr, arg-type]


def test_a_frozen_body_sends_its_head_and_has_no_dropout(
    study_with: StudyWith, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path / "bert", dropout=0.5)
    model = build(study_of(study_with, folder, body="frozen"), seed=0, models=folder).train()

    assert len(flat.flatten(model)) == 34
    assert torch.equal(model(records(4)), model(records(4)))

    adapted = build(study_of(study_with, folder), seed=0, models=folder).train()
    assert not torch.equal(adapted(records(4)), adapted(records(4)))


@pytest.mark.parametrize("body", ["frozen", "lora"])
def test_a_new_model_is_the_same_for_the_same_seed(
    body: str, shelf: Path, study_with: StudyWith
) -> None:
    study = study_of(study_with, shelf / "bert", body=body)
    one, same, other = (flat.flatten(build(study, seed=s, models=shelf)) for s in (1, 1, 2))

    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES)
def test_the_loss_falls_and_what_is_trained_moves(
    kind: str, body: str, tmp_path: Path, study_with: StudyWith
) -> None:
    study, model, task = trainable(study_with, tmp_path, kind, body)
    toy = texts_of_two_kinds(96)
    before = flat.flatten(model).copy()
    steps = PlainSteps(
        batch_size=16, epochs=8, steps=None, generator=torch.Generator().manual_seed(0)
    )
    started = mean_loss(model, toy, task)

    torch.manual_seed(0)
    train(model, toy, study, task, steps)

    assert mean_loss(model, toy, task) < 0.7 * started
    place, moved = 0, flat.flatten(model) != before
    for name, entry in flat.named(model).items():
        assert moved[place : place + entry.numel()].any(), name
        place += entry.numel()


def trainable(
    study_with: StudyWith, models: Path, kind: str, body: str
) -> tuple[Study, nn.Module, Task]:
    folder = write_encoder(models / kind, kind, deviation=None)
    study = study_of(study_with, folder, body=body, rank=4)
    adam = {"optimizer": "adam", "learning_rate": 0.003 if body == "full" else 0.03}
    study = study.model_copy(update={"training": study.training.model_copy(update=adam)})
    return study, build(study, seed=0, models=folder), task_of(study)


def texts_of_two_kinds(count: int) -> Records:
    """Half of them have the words from 10 on, the others those below; labels say which."""
    inputs, labels = records(count), torch.arange(count) % 2
    words = 5 + (inputs - 5) % 5 + 5 * labels.unsqueeze(1)
    return Records(torch.where(inputs > 0, words, 0), labels, torch.arange(count))


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", BODIES)
def test_a_gpu_answers_as_the_processor_and_learns(
    kind: str, body: str, tmp_path: Path, study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    study, model, task = trainable(study_with, tmp_path, kind, body)
    toy = texts_of_two_kinds(96)
    expected = model.eval()(toy.whole)

    model = model.cuda()
    torch.testing.assert_close(model(toy.whole.cuda()).cpu(), expected, atol=1e-4, rtol=1e-4)
    toy = toy.to(torch.device("cuda"))
    started = mean_loss(model, toy, task)
    steps = PlainSteps(
        batch_size=16, epochs=8, steps=None, generator=torch.Generator().manual_seed(0)
    )
    train(model, toy, study, task, steps)
    assert mean_loss(model, toy, task) < 0.7 * started


# --- Which folder ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_a_changed_file_is_another_model(file: str, tmp_path: Path, study_with: StudyWith) -> None:
    folder = write_encoder(tmp_path / "models" / "bert")
    study = study_of(study_with, folder)
    assert find_pretrained(tmp_path / "models", digest_of(folder)) == folder

    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(DataError, match="is not here; there are: bert"):
        build(study, seed=0, models=tmp_path / "models")


def test_no_folder_is_refused_with_where_to_name_one(shelf: Path, study_with: StudyWith) -> None:
    with pytest.raises(OptionError, match=r"hospital\.toml"):
        build(study_of(study_with, shelf / "bert"), seed=0)
    with pytest.raises(DataError, match="cannot be read"):
        build(study_of(study_with, shelf / "bert"), seed=0, models=shelf / "nowhere")


def test_pickles_and_code_in_the_folder_are_never_opened(
    tmp_path: Path, study_with: StudyWith
) -> None:
    """Whatever config.json says of code, and whatever else lies there."""
    folder = write_encoder(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling.Evil", "AutoConfig": "modeling.EvilConfig"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "modeling.py").write_text("raise SystemExit('code ran')")
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")

    build(study_of(study_with, folder), seed=0, models=folder)

    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError):
        digest_of(folder)


def test_weights_that_are_not_the_model_s_are_refused(
    tmp_path: Path, study_with: StudyWith
) -> None:
    folder = write_encoder(tmp_path / "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(DataError, match="lacks 16 of the model's weights"):
        build(study_of(study_with, folder), seed=0, models=folder)

    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(DataError, match=r"model\.safetensors"):
        build(study_of(study_with, folder), seed=0, models=folder)

    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(DataError, match="gpt2"):
        build(study_of(study_with, folder), seed=0, models=folder)

    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match="cannot be loaded"):
        build(study_of(study_with, folder), seed=0, models=folder)


def test_records_longer_than_the_model_reads_are_refused(
    shelf: Path, study_with: StudyWith
) -> None:
    study = study_of(study_with, shelf / "bert")
    longer = study.model_copy(update={"data": study.data.model_copy(update={"length": PLACES + 1})})
    with pytest.raises(StudyError, match=f"at most {PLACES}"):
        build(longer, seed=0, models=shelf)
    roberta = study_of(study_with, shelf / "roberta")
    data = roberta.data.model_copy(update={"length": PLACES})
    with pytest.raises(StudyError, match=f"at most {PLACES - 2}"):
        build(roberta.model_copy(update={"data": data}), seed=0, models=shelf)


def test_another_model_does_not_take_its_tokens(shelf: Path, study_with: StudyWith) -> None:
    data = {"kind": "text", "length": LENGTH, "tokenizer": "model"}
    with pytest.raises(StudyError, match="huggingface"):
        build(study_with({"model": {"name": "transformer"}, "data": data}), seed=0)
    ours = {"kind": "text", "length": LENGTH, "buckets": 100}
    model = {"name": "huggingface", "pretrained": digest_of(shelf / "bert")}
    with pytest.raises(StudyError, match="pieces"):
        build(study_with({"model": model, "data": ours}), seed=0, models=shelf)


@pytest.mark.slow
def test_without_a_network_nothing_is_missed(shelf: Path, tmp_path: Path) -> None:
    """A process whose every connection fails builds the model."""
    script = f"""
import socket
def refuse(*_, **__): raise AssertionError("a connection was tried")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from pathlib import Path
from fedward.models.huggingface import Settings, build
from fedward.models.inputs import Inputs
build(Settings(pretrained="0" * 64), Inputs("pieces", (8,)), 2, Path({str(shelf / "bert")!r}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "%" not in done.stderr  # no bar of progress


def test_the_page_of_models_has_an_example_that_is_read_and_counts_its_weights() -> None:
    """BERT base: 12 layers, 768 features; an adapter of rank 8 beside query and value."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "models.md").read_text("utf-8")
    section = page.partition("## Pretrained models")[2].partition("\n## ")[0]
    examples = re.findall(r"```toml\n(.*?)```", section, re.DOTALL)

    found = [settled(parse_study(tomllib.loads(example))) for example in examples]

    settings = next(s.model.settings for s in found if s.model.name == "huggingface")
    assert isinstance(settings["rank"], int)
    adapters = 12 * 2 * settings["rank"] * (768 + 768)
    assert f"{adapters:,} weights of adapters" in page
    assert f"a head of {768 * 2 + 2:,}" in page


def test_the_last_layers_are_those_that_travel(shelf: Path, study_with: StudyWith) -> None:
    """Layers of a body that stays as it is are counted by nobody."""
    frozen, lora = (
        build(study_of(study_with, shelf / "bert", body=body), seed=0, models=shelf)
        for body in ("frozen", "lora")
    )

    assert head(frozen, 1) == head(frozen, 5) == {"head"}
    last = "body.encoder.layer.1.attention.self.value.lora_B.default"
    assert head(lora, 2) == {last, "head"}
    assert {f"{path}.weight" for path in head(lora, 99)} | {"head.bias"} == set(flat.names(lora))
