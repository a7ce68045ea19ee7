"""A finished run is read whole, or refused with the file that is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedward.clinic.finished import read_finished
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.server.events import Outcome
from fedward.server.run_folder import write_model
from fedward.study.errors import DataError, FedwardError, OptionError
from tests.clinic.private_run import private_run
from tests.models.test_installed import package
from tests.simulation.conftest import study_of


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A private study with measured constants and a threshold from validation."""
    return private_run(tmp_path_factory.mktemp("run"), task={"threshold": "max_accuracy"})


def test_model_threshold_and_constants_are_the_run_s(run: Path) -> None:
    finished = read_finished(run)
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    assert finished.facts.threshold == result["metrics"]["federated"]["threshold"]
    assert finished.scaling is not None
    assert finished.scaling.centers[0] == result["scaling"]["number"]["center"]
    saved = load_file(run / "model.safetensors")
    assert all(torch.equal(saved[name], w) for name, w in finished.model.state_dict().items())
    assert not finished.model.training


def test_another_study_s_model_and_damaged_files_are_refused(run: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(run, tmp_path / name))

    def refusal(folder: Path) -> FedwardError:
        with pytest.raises(FedwardError) as refused:
            read_finished(folder)
        return refused.value

    assert isinstance(refusal(tmp_path), OptionError)
    other = copied("other")
    text = (other / "study.toml").read_text(encoding="utf-8")
    (other / "study.toml").write_text(text.replace("rounds = 2", "rounds = 3"), encoding="utf-8")
    assert "is the model of study" in refusal(other).line()
    cut = copied("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-9])
    assert isinstance(refusal(cut.parent), DataError)
    spoilt = copied("spoilt") / "model.safetensors"
    weights = load_file(spoilt)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    finished = read_finished(run)
    about = finished.facts.model_dump(mode="json", exclude_none=True)
    save_file(weights, spoilt, metadata={"fedward": json.dumps(about)})
    assert "no numbers" in refusal(spoilt.parent).line()
    strange = copied("strange") / "model.safetensors"
    save_file({"w": torch.zeros(2)}, strange, metadata={"fedward": json.dumps(about)})
    assert "not those of the study's network" in refusal(strange.parent).line()
    silent = copied("silent") / "model.safetensors"
    save_file(load_file(run / "model.safetensors"), silent)
    assert isinstance(refusal(silent.parent), DataError)


NORMED = """
from fedward.models.family import Family
from fedward.study.frozen import Frozen


class Settings(Frozen):
    hidden: tuple[int, ...]


def build(settings, inputs, outputs):
    from torch import nn
    return nn.Sequential(nn.Linear(inputs.shape[0], 8), nn.BatchNorm1d(8), nn.Linear(8, outputs))


FAMILY = Family("normed", Settings, build, inputs=("features",))
"""


@pytest.mark.parametrize("private", [False, True])
def test_a_package_s_model_is_read_in_the_form_that_was_trained(
    private: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private training puts group normalisation in batch normalisation's place."""
    site = tmp_path / "site"
    site.mkdir()
    package(site, "normed = normed_models:FAMILY", name="normed-models", code=NORMED)
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "normed_models", raising=False)
    privacy = {"mode": "local", "noise_multiplier": 1.0, "delta": 1e-3, "sampling_rate": 0.5}
    study = settled(
        study_of(
            model={"name": "normed"},
            **({"privacy": privacy} if private else {}),
        )
    )
    network = build(study, seed=5)
    folder = tmp_path / "run"
    folder.mkdir()
    text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
    (folder / "study.toml").write_text(text, encoding="utf-8")
    outcome = Outcome(flat.flatten(network), {}, None, 0.5, None)
    write_model(study, outcome, folder / "model.safetensors")

    finished = read_finished(folder)

    kind = nn.GroupNorm if private else nn.BatchNorm1d
    assert any(isinstance(layer, kind) for layer in finished.model.modules())
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(finished.model(inputs), network.eval()(inputs))
    assert finished.task.loss(finished.model(inputs), torch.tensor([0, 1, 1, 0])).shape == (4,)
