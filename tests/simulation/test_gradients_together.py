"""Whole private studies by the engine and by Opacus' hooks: the same metrics with the same seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fedward.client.hospital import TrainingSettings, read_hospital, write_hospital
from fedward.privacy.gradients.engine import EngineSums
from fedward.privacy.gradients.hooks import HookedSums
from fedward.privacy.gradients.source import Gradients
from fedward.simulation.hospitals import make_hospitals
from fedward.simulation.result import Result
from fedward.simulation.simulate import Options, simulate
from fedward.study.study import Study, parse_study, read_study

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 3
Made = tuple[Study, Path]


def chest(folder: Path) -> Made:
    """The example, shortened, on made-up pictures: the ill have a brighter half."""
    values = read_study(ROOT / "examples" / "chest-xray-private.toml").model_dump(
        mode="json", exclude_none=True
    )
    values["training"]["rounds"] = ROUNDS
    values["simulation"].pop("download")
    rng = np.random.default_rng(0)
    entries: dict[str, Any] = {}
    for part, count in (("train", 240), ("val", 60), ("test", 60)):
        labels = np.arange(count) % 2
        images = rng.integers(0, 160, (count, 28, 28), dtype=np.uint8)
        images[labels == 1, :, 14:] += 60
        entries |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    np.savez(folder / "chest.npz", **entries)
    return parse_study(values), folder / "chest.npz"


def beats(folder: Path) -> Made:
    """An LSTM over made-up signals of many patients, with up to eight of each in a gradient."""
    rng = np.random.default_rng(0)
    labels = np.arange(480) % 2
    waves = np.sin(np.arange(40) / np.where(labels == 1, 3.0, 6.0)[:, None])
    signals = (100 * (waves + rng.normal(size=waves.shape) / 3)).astype(np.int16)
    patients = rng.permutation(480) // 8
    np.savez(folder / "beats.npz", x=signals, y=labels, patient=patients)
    study = parse_study(
        {
            "study": {"name": "beats"},
            "task": {"kind": "binary", "classes": ["slow", "fast"]},
            "model": {"name": "lstm", "hidden": 8},
            "data": {
                "kind": "signals",
                "channels": ["MLII"],
                "rate": 60,
                "length": 40,
                "scale": [100],
                "class_values": [[0], [1]],
                "parts": {"by": "hash", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0},
            },
            "training": {"rounds": ROUNDS, "local_steps": 2, "learning_rate": 0.5},
            "aggregation": {"clip": 20, "max_records": 1000},
            "privacy": {
                "mode": "local",
                "epsilon": 8.0,
                "delta": 1e-3,
                "sampling_rate": 0.5,
                "records_per_patient": 8,
                "accountant": "rdp",
            },
            "participation": {"hospitals": 3},
            "simulation": {
                "split": "patients",
                "source": {
                    "format": "signal-npz",
                    "signals": "x",
                    "labels": "y",
                    "channels": ["MLII"],
                    "rate": 60,
                    "patient": "patient",
                },
            },
        }
    )
    return study, folder / "beats.npz"


def run(made: Made, gradients: Gradients, out: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    """One simulation whose hospitals all choose where gradients come from."""

    def chosen(*args: Any, **named: Any) -> list[Path]:  # noqa: ANN401
        files = make_hospitals(*args, **named)
        for file in files:
            settings = TrainingSettings(gradients=gradients)
            write_hospital(read_hospital(file).model_copy(update={"training": settings}), file)
        return files

    study, data = made
    with monkeypatch.context() as patch:
        patch.setattr("fedward.simulation.simulate.make_hospitals", chosen)
        options = Options(out=out, data=data, seed=1, workers=1, baselines=False)
        return simulate(study, options, listener=lambda _: None, say=lambda _: None)


def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often each source made a clipped sum."""
    sums = {"fedward": 0, "opacus": 0}
    for name, kind in (("fedward", EngineSums), ("opacus", HookedSums)):

        def of(*args: Any, own: Any = kind.of, name: str = name) -> Any:  # noqa: ANN401
            sums[name] += 1
            return own(*args)

        monkeypatch.setattr(kind, "of", of)
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("made", [chest, beats])
def test_the_engine_and_opacus_find_the_same_model(
    made: Callable[[Path], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, sums = made(tmp_path), counted(monkeypatch)

    ours = run(given, "fedward", tmp_path / "ours", monkeypatch)
    assert sums["fedward"] > 0
    assert sums["opacus"] == 0
    of_engine = sums["fedward"]
    theirs = run(given, "opacus", tmp_path / "theirs", monkeypatch)

    assert sums == {"fedward": of_engine, "opacus": of_engine}
    assert ours.failures == theirs.failures == []
    assert ours.privacy == theirs.privacy
    assert all(spent.epsilon for spent in ours.privacy.values())
    found, expected = (
        load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs")
    )
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=1e-3, atol=1e-5)
    one, other = (
        each.metrics.federated.model_dump(exclude={"classes"}, exclude_none=True)
        for each in (ours, theirs)
    )
    assert one == pytest.approx(other, rel=1e-4)
