"""Flower's own engine runs the same study to the same figures."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

COMMAND = Path(sys.executable).with_name("fedward")
STUDY = {
    "study": {"name": "tiny"},
    "task": {"kind": "binary", "classes": ["benign", "malignant"]},
    "model": {"name": "mlp", "hidden": [4]},
    "data": {"kind": "table", "features": {"age": {}, "size": {}}, "label": "diagnosis"},
    "training": {"rounds": 2, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.3},
    "participation": {"hospitals": 3},
}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_figures_of_this_process(table: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_bytes(tomli_w.dumps(STUDY).encode())
    found = {}
    for engine in ("processes", "ray"):
        out = tmp_path / engine
        words = ["simulate", study, "--data", table, "--out", out, "--engine", engine]
        done = subprocess.run(
            [COMMAND, *map(str, words), "--no-baselines"],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[engine] = json.loads((out / "result.json").read_text("utf-8"))["metrics"]

    ours, rays = found["processes"]["federated"], found["ray"]["federated"]
    assert rays == pytest.approx(ours, rel=1e-5)
