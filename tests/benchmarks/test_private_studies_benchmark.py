"""The benchmark of whole private studies runs, and both gradients lead to the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not (DATA / "mitbih").is_dir(), reason="needs the MIT-BIH heartbeats")
def test_both_sources_of_gradients_come_to_the_same_study() -> None:
    found = subprocess.run(
        [
            sys.executable,
            "benchmarks/private_studies.py",
            "--quick",
            "--only",
            "arrhythmia",
            "--json",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    (row,) = json.loads(found.stdout)["rows"]
    assert row["sums"] == {"fedward": 10, "opacus": 10}  # two rounds at five sites
    assert row["greatest_difference"] < 1e-4
    assert row["weights_apart"] < 1e-4
    for which in ("seconds", "predicted"):
        assert all(value > 0 for value in row[which].values())
