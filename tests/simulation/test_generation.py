"""A whole study that makes images: hospitals, server and command together, on images of bars."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedward.server.events import Event, RoundFinished
from fedward.server.synthesis import synthesize
from fedward.server.synthesis_privacy import SIMULATED
from fedward.simulation.simulate import Options, simulate
from fedward.study.study import Study, parse_study

SIDE = 8


def bars(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A bright bar on black, across or down."""
    rng = np.random.default_rng(seed)
    images, kinds = np.zeros((count, SIDE, SIDE), np.uint8), rng.integers(0, 2, count)
    for image, kind in zip(images, kinds, strict=True):
        at = rng.integers(0, SIDE - 2)
        (image.T if kind else image)[at : at + 2] = rng.integers(200, 256)
    return images, kinds


def archive(path: Path, train: int) -> Path:
    entries: dict[str, Any] = {}
    for part, count, seed in (("train", train, 0), ("val", 60, 1), ("test", 100, 2)):
        entries[f"{part}_images"], entries[f"{part}_labels"] = bars(count, seed)
    np.savez(path, **entries)
    return path


def study_of(rounds: int, **tables: Any) -> Study:  # noqa: ANN401
    values: dict[str, Any] = {
        "study": {"name": "bars"},
        "task": {"kind": "generation", "classes": ["across", "down"]},
        "model": {"name": "gan", "channels": [16, 16], "code": 8, "average": 0.8},
        "data": {"kind": "images", "shape": [1, SIDE, SIDE], "parts": {"by": "file"}},
        "training": {
            "rounds": rounds,
            "local_steps": 5,
            "batch_size": 32,
            "optimizer": "adam",
            "learning_rate": 0.001,
        },
        "aggregation": {"strategy": "fedavg", "clip": 100, "max_records": 1000},
        "participation": {"hospitals": 3},
        "simulation": {"split": "iid"},
    }
    for name, table in tables.items():
        values[name] = values.get(name, {}) | table
    return parse_study(values)


def run(study: Study, folder: Path, *, train: int = 300) -> tuple[Any, list[RoundFinished]]:
    seen: list[RoundFinished] = []

    def listen(event: Event) -> None:
        if isinstance(event, RoundFinished):
            seen.append(event)

    result = simulate(
        study,
        Options(folder / "run", archive(folder / "bars.npz", train), workers=1, baselines=False),
        listener=listen,
        say=lambda _: None,
    )
    return result, seen


@pytest.mark.slow
def test_generated_images_move_towards_the_records(tmp_path: Path) -> None:
    """By the study's own distance, and by one of this test's: what share of light is in bars."""
    result, rounds = run(study_of(40), tmp_path)

    started = rounds[0].metrics
    assert started is not None
    ended = result.metrics.federated.distance
    assert ended is not None
    assert ended < 0.6 * started["distance"]
    synthesize(tmp_path / "run", tmp_path / "out", count=200, seed=0)
    made = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out").glob("*.png"))]
    images = np.stack(made).astype(float) / 255
    real, _ = bars(200, 3)
    assert abs(images.mean() - real.mean() / 255) < 0.1
    # Lines that are as bright as a bar, in the direction of the class: more of them than across.
    down, across = images[1::2], images[0::2]
    aligned = down.mean(axis=1).var(axis=1).mean() + across.mean(axis=2).var(axis=1).mean()
    crossed = down.mean(axis=2).var(axis=1).mean() + across.mean(axis=1).var(axis=1).mean()
    assert aligned > 1.5 * crossed


@pytest.mark.slow
def test_a_private_run_is_charged_and_says_so(tmp_path: Path) -> None:
    privacy = {"mode": "local", "epsilon": 6.0, "delta": 1e-3, "sampling_rate": 0.2}
    study = study_of(
        2,
        privacy=privacy | {"clipping_norm": 1.0, "accountant": "rdp"},
        simulation={"source": {"patient": "record"}},
    )

    result, _ = run(study, tmp_path, train=120)

    assert result.failures == []
    synthesize(tmp_path / "run", tmp_path / "out", count=2, seed=0)
    statement = json.loads((tmp_path / "out" / "privacy.json").read_bytes())
    assert {name: each["epsilon"] for name, each in statement["hospitals"].items()} == {
        name: spent.epsilon for name, spent in result.privacy.items()
    }
    assert all(5 < each["epsilon"] <= 6 for each in statement["hospitals"].values())
    assert statement["words"] == SIMULATED
