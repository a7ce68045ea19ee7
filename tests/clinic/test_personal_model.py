"""A hospital's own model is read, asked and exported like a run's, by the run's study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedward.clinic.asked_model import read_asked_model
from fedward.clinic.export import Wanted, export
from fedward.clinic.finished import read_finished
from fedward.clinic.onnx_file import OnnxModel
from fedward.clinic.real_records import read_real_records
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import DataError, OptionError
from tests.simulation.conftest import COUNT, study_of, write_table

MEASURED: dict[str, Any] = {
    "features": {"number": {"bounds": [0, 60]}, "age": {}, "size": {}},
    "scaling": "measured",
}


def simulated(folder: Path, threshold: object, **tables: dict[str, Any]) -> tuple[Path, list[Path]]:
    """A run's folder, and each hospital's own model."""
    study = study_of(task={"threshold": threshold}, data=MEASURED, **tables)
    data = write_table(folder / "records.csv", range(COUNT))
    options = Options(out=folder / "run", data=data, seed=4, workers=1, baselines=False)
    simulate(study, options, listener=lambda _: None, say=lambda _: None)
    found = sorted((folder / "run").rglob("personal-model.safetensors"))
    assert len(found) == 3
    return folder / "run", found


@pytest.fixture(scope="module")
def fedper(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """FedPer, with a threshold that the study fixes."""
    folder = tmp_path_factory.mktemp("fixed")
    return simulated(folder, 0.3, aggregation={"strategy": "fedper"})


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Fine-tuning, with a threshold from validation."""
    tuning = {"fine_tuning": {"steps": 3, "learning_rate": 0.1}}
    return simulated(tmp_path_factory.mktemp("chosen"), "max_accuracy", training=tuning)


def test_a_hospital_s_model_is_what_all_share_and_its_own_layers(
    fedper: tuple[Path, list[Path]],
) -> None:
    run, files = fedper
    result = json.loads((run / "result.json").read_text("utf-8"))
    shared = load_file(run / "model.safetensors")
    with pytest.raises(DataError, match=r"personal-model\.safetensors with --model"):
        read_finished(run)

    heads = []
    for file in files:
        finished = read_finished(run, model=file)
        state = finished.model.state_dict()
        assert all(torch.equal(state[name], entry) for name, entry in shared.items())
        assert finished.facts.threshold == 0.3
        assert finished.facts.run
        assert finished.scaling is not None
        assert finished.scaling.centers[0] == result["scaling"]["number"]["center"]
        heads.append(torch.cat([state[n].flatten() for n in sorted(set(state) - set(shared))]))
        assert len(heads[-1]) == 2 * 4 + 2
    assert not torch.equal(heads[0], heads[1])


def test_only_the_study_is_needed_beside_it(
    fedper: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    run, files = fedper
    (tmp_path / "study.toml").write_bytes((run / "study.toml").read_bytes())

    asked = read_asked_model(tmp_path, own=files[1])

    assert asked.threshold == 0.3
    assert asked.scaling is not None
    with pytest.raises(OptionError, match=r"no model\.safetensors"):
        read_asked_model(tmp_path)
    with pytest.raises(OptionError, match="folder of a run"):
        read_asked_model(files[0], own=files[1])


@pytest.mark.slow
def test_a_hospital_s_model_is_exported(fedper: tuple[Path, list[Path]], tmp_path: Path) -> None:
    run, files = fedper
    finished = read_finished(run, model=files[2])

    export(finished, Wanted("onnx"), tmp_path / "m.onnx", read_real_records(finished, None))

    network = OnnxModel((tmp_path / "m.onnx").read_bytes(), "m.onnx")
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(inputs), finished.model(inputs))
    asked = read_asked_model(tmp_path / "m.onnx")
    assert (asked.threshold, asked.scaling) == (0.3, finished.scaling)


def test_a_threshold_that_only_the_aggregator_knows_is_asked_for(
    chosen: tuple[Path, list[Path]], fedper: tuple[Path, list[Path]]
) -> None:
    run, files = chosen
    with pytest.raises(OptionError, match=r"only the aggregator knows it.*--threshold P"):
        read_finished(run, model=files[0])

    assert read_finished(run, model=files[0], threshold=0.45).facts.threshold == 0.45
    assert read_asked_model(run, own=files[0], threshold=0.45).threshold == 0.45
    for folder, model in ((run, None), (fedper[0], fedper[1][0])):
        with pytest.raises(OptionError, match="leave it out"):
            read_finished(folder, model=model, threshold=0.45)


def test_a_model_without_its_constants_is_not_asked_unscaled(
    fedper: tuple[Path, list[Path]], tmp_path: Path
) -> None:
    run, files = fedper
    with safe_open(files[0], framework="pt") as file:
        about = json.loads(file.metadata()["fedward"])
    del about["scaling"]["number"]
    older = tmp_path / "older.safetensors"
    save_file(load_file(files[0]), older, metadata={"fedward": json.dumps(about)})

    with pytest.raises(DataError, match="lacks the constants"):
        read_finished(run, model=older)
