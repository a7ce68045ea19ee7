"""The benchmark of noise runs, and prints what programs rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "noise.py"
ROW_KEYS = {"name", "unit", "ours", "peer", "ratio", "peer_name", "repeats", "spread"}


@pytest.mark.slow
def test_a_quick_run_measures_noise_beside_pytorch_and_within_a_step(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["benchmark"] == "noise"
    for row in document["rows"]:
        assert row.keys() == ROW_KEYS
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        assert min(row["spread"]["ours"]) <= row["ours"] <= max(row["spread"]["ours"])
    peers = {row["peer_name"] for row in document["rows"] if row["unit"] == "ns"}
    assert peers == {"torch.randn", "torch.randn, added", "AES-CTR alone"}
    steps = [row for row in document["rows"] if row["unit"] == "ms"]
    assert steps
    assert all(0 < row["ratio"] < 1 for row in steps)
    assert sum(name.startswith("goal: ") for name in document["checks"]) == len(steps)
