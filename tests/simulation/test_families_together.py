"""Every family, and every task, in a federation with privacy and secure sums on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from fedward.client.app import make_app
from fedward.client.data.records import Parts, Records
from fedward.client.data.sources import CsvSource
from fedward.client.hospital import HospitalFile, Limits, Pretended, read_hospital, write_hospital
from fedward.client.site import Site
from fedward.models import flat
from fedward.models.registry import build, settled
from fedward.models.task import task_of
from fedward.models.travelling import travelling
from fedward.server.events import Outcome, RoundFinished
from fedward.server.federation import Federation
from fedward.server.run_folder import write_results
from fedward.simulation.consortium import found_consortium
from fedward.simulation.grid import InProcessGrid
from fedward.simulation.simulate import Options, simulate
from fedward.study.errors import StudyError
from fedward.study.study import Study, parse_study
from tests.conftest import ValuesWith
from tests.models.small_families import CASES, PRIVATE, SIGNAL, TABLE, TEXT, Case, toy, values_of
from tests.simulation.conftest import study_of

HOSPITALS = ("a", "b", "c")
TRAINING = {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1}


def federated(folder: Path, study: Study) -> tuple[Outcome, dict[str, Site]]:
    """One run over three hospitals that have toy records; they must all do as they are asked."""
    files = [_hospital(folder / name, seed=7) for name in HOSPITALS]
    found_consortium(files)
    sites = {}
    for number, file in enumerate(files):
        site = Site(read_hospital(file), file.parent)
        site.keep(study, _parts(study, number))
        sites[str(file)] = site
    app = make_app(lambda context: sites[str(context.node_config["hospital"])])
    with InProcessGrid(files, client_app=app) as grid:
        outcome = Federation(study, grid, run="run", seed=1).train_and_judge()
    return outcome, sites


def _parts(study: Study, number: int) -> Parts:
    sizes = {"train": 12, "validation": 6, "test": 6}
    return {
        part: _toy(study, size, seed=10 * number + place)  # type: ignore[misc]
        for place, (part, size) in enumerate(sizes.items())
    }


def _toy(study: Study, count: int, seed: int) -> Records:
    """The toy of the families' tests, with the labels that other tasks have."""
    records = toy(study, count, seed)
    source, sign = torch.Generator().manual_seed(seed), 2 * records.whole_labels - 1
    noise = torch.rand(count, generator=source)
    match study.task.kind:
        case "multilabel":
            labels = torch.stack([records.whole_labels, 1 - records.whole_labels], dim=1).float()
        case "regression":
            labels = 60 + 30 * sign + noise
        case "survival":
            seen = (torch.arange(count) % 3 != 0).float()
            labels = torch.stack([4 - 2 * sign + noise, seen], dim=1)
        case _:
            return records
    return Records(records.whole, labels, records.patients)


def _hospital(folder: Path, seed: int) -> Path:
    folder.mkdir(parents=True)
    file = folder / "hospital.toml"
    hospital = HospitalFile(
        name=folder.name,
        device="cpu",
        data=CsvSource(format="csv", path="nothing.csv", patient="record"),
        limits=Limits(declared_patients=12),
        simulation=Pretended(seed=seed),
    )
    write_hospital(hospital, file)
    return file


def _study(values_with: ValuesWith, tables: Mapping[str, object]) -> Study:
    return settled(parse_study(values_with({**tables, "training": TRAINING})))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_family_trains_together_with_privacy_and_secure_sums(
    name: str, values_with: ValuesWith, tmp_path: Path
) -> None:
    case: Case = CASES[name]
    if case.model["name"] in {"unet", "densenet121", "efficientnet"}:
        pytest.importorskip("monai")
    study = _study(values_with, {**values_of(case), "privacy": PRIVATE})
    assert study.aggregation.secure

    outcome, sites = federated(tmp_path, study)

    assert [event.refusal for event in outcome.refusals] == []
    first = flat.flatten(build(study, seed=1))
    assert (outcome.model != first).mean() > 0.9
    assert all(len(site.ledger.entries()) == 1 for site in sites.values())
    write_results(study, outcome, tmp_path / "out")
    _exact(study, outcome, sites)


ALGORITHMS: dict[str, tuple[str, dict[str, Any]]] = {
    "scaffold": ("mlp", {"strategy": "scaffold"}),
    "fedbn": ("resnet, small stem", {"strategy": "fedbn"}),
    "fedper": ("mlp", {"strategy": "fedper"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_stays_at_a_hospital_stays_there_with_privacy_and_secure_sums(
    name: str, values_with: ValuesWith, tmp_path: Path
) -> None:
    family, terms = ALGORITHMS[name]
    tables = {**values_of(CASES[family]), "privacy": PRIVATE, "aggregation": terms}
    study = settled(parse_study(values_with({**tables, "training": {**TRAINING, "rounds": 2}})))
    assert study.aggregation.secure

    outcome, sites = federated(tmp_path, study)

    assert [event.refusal for event in outcome.refusals] == []
    assert [type(record) for record in outcome.rounds] == [RoundFinished] * 2
    network = build(study, seed=1)
    going = travelling(study, network)
    first = flat.flatten(network, going)
    assert outcome.model.shape == first.shape
    assert (outcome.model != first).mean() > 0.9
    assert all(len(site.ledger.entries()) == 2 for site in sites.values())
    kept = sorted(tmp_path.glob("*/state/runs/*/own-000002.safetensors"))
    assert len(kept) == len(sites)
    own = [next(iter(load_file(file).values())) for file in kept]
    assert not any(torch.equal(own[0], other) for other in own[1:])
    staying = sum(entry.numel() for n, entry in flat.named(network).items() if n not in going)
    assert len(own[0]) == (staying or len(first))
    if name == "fedbn":
        groups = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
        assert staying == sum(2 * layer.num_channels for layer in groups) > 0


TASKS: dict[str, dict[str, Any]] = {
    "multiclass": {"task": {"kind": "multiclass", "classes": ["a", "b"]}},
    "multilabel": {
        "task": {"kind": "multilabel", "classes": ["up", "down"]},
        "data": {"label": ["up", "down"]},
    },
    "regression": {"task": {"kind": "regression", "bounds": [0, 120]}},
    "survival": {
        "task": {"kind": "survival", "intervals": [2, 4, 6, 8]},
        "data": {"label": ["time", "event"]},
    },
}


@pytest.mark.parametrize("private", [False, True], ids=["plain", "private"])
@pytest.mark.parametrize("model", ["mlp", "lstm", "bag_of_tokens"])
@pytest.mark.parametrize("kind", TASKS)
def test_every_labelled_task_is_learnt_together(
    kind: str, model: str, private: bool, values_with: ValuesWith, tmp_path: Path
) -> None:
    data = {"mlp": TABLE, "lstm": SIGNAL, "bag_of_tokens": TEXT}[model]
    tables = {
        "model": {"name": model},
        "task": TASKS[kind]["task"],
        "data": data | TASKS[kind].get("data", {}),
        **({"privacy": PRIVATE} if private else {}),
    }
    study = _study(values_with, tables)

    outcome, sites = federated(tmp_path, study)

    assert outcome.refusals == []
    _exact(study, outcome, sites)


def test_cox_is_learnt_together_without_privacy_only(
    values_with: ValuesWith, tmp_path: Path
) -> None:
    task = {"kind": "survival", "intervals": [2, 4, 6, 8], "loss": "cox"}
    tables = {
        "model": {"name": "mlp"},
        "task": task,
        "data": TABLE | {"label": ["time", "event"]},
    }
    study = _study(values_with, tables)

    outcome, sites = federated(tmp_path, study)

    _exact(study, outcome, sites)
    private = _study(values_with, {**tables, "privacy": PRIVATE})
    with pytest.raises(StudyError, match="cox"):
        federated(tmp_path / "private", private)


def _exact(study: Study, outcome: Outcome, sites: Mapping[str, Site]) -> None:
    """The metrics of the sums that left are those of all hospitals' test records together."""
    model = build(study, seed=0)
    flat.load(model, outcome.model)
    model.eval()
    task = task_of(study)
    total = np.zeros(task.size)
    for site in sites.values():
        records = site.load(study.digest()).parts["test"]
        with torch.no_grad():
            outputs = model(records.whole)
        total = total + task.sums(outputs, task.truth(records.whole, records.whole_labels))
    known = task.metrics(total, outcome.threshold)
    assert outcome.test["records"] == 18
    assert outcome.test.keys() == known.keys()
    for name, value in known.items():
        if not isinstance(value, dict):
            expected = value if value is None else pytest.approx(value, abs=2e-3, rel=1e-3)
            assert outcome.test[name] == expected, name


# --- The whole simulation, with its files ---------------------------------------------------------


def _write(path: Path, count: int = 90) -> Path:
    rng = np.random.default_rng(3)
    lines = ["age,size,up,down,cost,time,event"]
    for _ in range(count):
        age, size = rng.normal(size=2)
        time = rng.exponential(3 * np.exp(-age))
        lines.append(
            f"{age},{size},{int(age > 0)},{int(size > 0)},{50 + 20 * age},{time},{rng.integers(2)}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


FILES: dict[str, tuple[dict[str, Any], Any, set[str]]] = {
    "multilabel": (TASKS["multilabel"]["task"], ["up", "down"], {"auc", "f1", "classes"}),
    "regression": (TASKS["regression"]["task"], "cost", {"mae", "rmse", "r2"}),
    "survival": (TASKS["survival"]["task"], ["time", "event"], {"concordance", "events"}),
    "reconstruction": ({"kind": "reconstruction"}, [], {"error", "error_95"}),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_run_folder_shows_what_the_task_has(kind: str, tmp_path: Path) -> None:
    task, label, metrics = FILES[kind]
    values = study_of().model_dump(mode="json", exclude_none=True)
    values["task"] = task
    values["data"] = {
        "kind": "table",
        "features": {"age": {}, "size": {}},
        "label": label,
        "parts": {"by": "hash"},
    }
    values["model"] = {"name": "vae" if kind == "reconstruction" else "mlp"}
    values["training"]["learning_rate"] = 0.05

    result = simulate(
        parse_study(values),
        Options(out=tmp_path / "out", data=_write(tmp_path / "t.csv"), workers=1),
        listener=lambda _: None,
        say=lambda _: None,
    )

    assert result.failures == []
    found = json.loads((tmp_path / "out" / "result.json").read_text("utf-8"))["metrics"]
    assert metrics <= found["federated"].keys() == found["pooled"].keys()
    assert "sensitivity" not in found["federated"]
    assert (tmp_path / "out" / "curves.png").stat().st_size > 5000
    head = (tmp_path / "out" / "rounds.csv").read_text("utf-8").splitlines()[0]
    assert metrics & set(head.split(","))
