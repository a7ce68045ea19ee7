"""The benchmark of private training runs, and no side of ours is left out of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "private_training.py"


@pytest.mark.slow
def test_a_quick_run_measures_every_side_of_a_small_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick", "--only", "CNN", "--fits", "48"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["benchmark"] == "private_training"
    one, four = document["rows"]
    assert (one["k"], four["k"]) == (1, 4)
    for row in (one, four):
        assert {"plain", "Fedward"} <= row["times_plain"].keys()
        assert not row["left_out"]
        for found in row["times_plain"].values():
            assert found["least"] <= found["median"] <= found["most"]
            assert found["processor_ms"] > 0
        assert row["memory_mib"]["Fedward"] > 0
        fits = row["largest_batch"]
        assert fits["plain"] >= fits["Fedward"] * 0.8
        assert fits["Fedward"] % row["k"] == 0
        assert fits["Fedward"] > row["k"]
    assert {"Opacus hooks", "Opacus ghost", "Opacus functorch"} <= one["times_plain"].keys()
    assert "Opacus hooks, summed by patient" in four["times_plain"]
