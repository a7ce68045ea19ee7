"""The benchmark of readers runs, compares the records first, and prints what programs rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "data.py"


@pytest.mark.slow
def test_a_quick_run_measures_first_and_cached_epochs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick", "--only", "jpeg"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["benchmark"] == "data"
    for row in document["rows"]:
        assert row["unit"] == "records/s"
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    epochs = [row["name"].split(", ")[-1] for row in document["rows"]]
    assert epochs == ["first epoch", "first epoch", "cached epoch", "cached epoch"]
    assert len(document["checks"]) == 4
