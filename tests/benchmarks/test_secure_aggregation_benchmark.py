"""The benchmark of secure aggregation runs, and prints what programs rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "secure_aggregation.py"
ROW_KEYS = {"name", "unit", "ours", "peer", "ratio", "peer_name", "repeats", "spread"}


@pytest.mark.slow
def test_a_quick_run_measures_time_bytes_and_memory_beside_flower_and_plain(
    tmp_path: Path,
) -> None:
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
    assert document["benchmark"] == "secure_aggregation"
    assert all(f"left out: {said}" in done.stderr for said in document["left_out"])
    for row in document["rows"]:
        assert row.keys() == ROW_KEYS
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        assert min(row["spread"]["ours"]) <= row["ours"] <= max(row["spread"]["ours"])
    for what in ("one mask", "a hospital's", "the aggregator's", "bytes a", "peak memory"):
        assert any(row["name"].startswith(what) for row in document["rows"]), what
    by_clock, by_processor = (
        [(row["name"], row["peer_name"]) for row in document["rows"] if row["unit"] == unit]
        for unit in ("ms", "CPU ms")
    )
    assert by_clock == by_processor
    parts = next(found for name, found in document["checks"].items() if name.endswith("by part"))
    assert sum(parts.values()) == pytest.approx(2 * parts["whole"], abs=0.05)
    errors = document["checks"]["largest error of a mean, in steps of the code"]
    assert 0 < errors["ours"] <= 1.01
