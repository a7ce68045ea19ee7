"""`fedward models`, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.models.registry import FAMILIES, build
from fedward.study.study import read_study
from tests.models.test_installed import package

STUDY = """
study.name = "large"
task = {kind = "multiclass", classes = ["a", "b", "c"]}
model = {name = "mlp", hidden = [7]}
training = {rounds = 1, local_epochs = 1, learning_rate = 0.1}
participation.hospitals = 3
data = {kind = "table", label = "ill", features = {age = {}, sex = {}}}
"""


def found(*arguments: str) -> dict[str, dict[str, object]]:
    done = CliRunner().invoke(app, ["models", "--json", *arguments])
    assert done.exit_code == 0, done.output
    return {each["name"]: each for each in json.loads(done.stdout)}


def test_every_family_says_what_it_is() -> None:
    models = found()

    assert list(models) == list(FAMILIES)
    mlp = models["mlp"]
    assert mlp["weights"] == 20 * 32 + 32 + 32 * 2 + 2
    assert (mlp["inputs"], mlp["from"], mlp["extra"]) == (["features"], "fedward", None)
    assert mlp["privacy"] == ["flat", "per_layer", "automatic"]
    assert mlp["settings"] == {"hidden": [32]}
    assert {name for name, each in models.items() if each["extra"] == "imaging"} == {
        *("densenet121", "efficientnet", "unet")
    }


def test_weights_of_a_study_are_those_it_will_train(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(STUDY, encoding="utf-8")

    models = found(str(file))

    network = build(read_study(file), seed=0)
    assert models["mlp"]["weights"] == sum(p.numel() for p in network.parameters())
    assert models["linear"]["weights"] == 2 * 3 + 3
    assert (models["vit"]["weights"], models["vit"]["why"]) == (None, "not for it")


def test_of_a_pretrained_model_those_weights_are_counted_that_travel(tmp_path: Path) -> None:
    """Adapters of rank 4 beside query and value in two layers of 16, and a head of three."""
    pytest.importorskip("transformers")
    pytest.importorskip("peft")
    from fedward.models.pretrained import digest_of
    from tests.models.tiny_bert import write_encoder

    folder = write_encoder(tmp_path / "models" / "bert")
    text = STUDY.replace(
        'model = {name = "mlp", hidden = [7]}',
        f'model = {{name = "huggingface", pretrained = "{digest_of(folder)}", rank = 4}}',
    )
    text = (
        text[: text.index("data = ")] + 'data = {kind = "text", length = 10, tokenizer = "model"}'
    )
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")

    listed = found(str(file), "--models", str(tmp_path / "models"))["huggingface"]
    assert (listed["weights"], listed["why"]) == (2 * 2 * 4 * 32 + 16 * 3 + 3, "")
    unlisted = found(str(file))["huggingface"]
    assert (unlisted["weights"], unlisted["why"]) == (None, "its folder's: give --models")
    astray = found(str(file), "--models", str(tmp_path / "nowhere"))["huggingface"]
    assert astray["weights"] is None
    assert "cannot be read" in str(astray["why"])


def test_a_model_of_a_package_says_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(tmp_path, "listed_net = listed_models:FAMILY", name="listed-models")
    code = (tmp_path / "listed_models.py").read_text().replace("ward_net", "listed_net")
    (tmp_path / "listed_models.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))

    assert found()["listed_net"]["from"] == "listed-models 1.4"
    assert "listed-models 1.4" in CliRunner().invoke(app, ["models"]).stdout
