"""The benchmark of the simulation runs, and prints what programs rely on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "simulation.py"
ROW_KEYS = {"name", "unit", "ours", "peer", "ratio", "peer_name", "repeats", "spread"}
ROWS_WITH = {None: 1, "ray": 2, "pfl": 2}


@pytest.mark.slow
def test_a_quick_run_prints_one_json_document_with_a_row_for_each_comparison(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick", "--rounds", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert {"benchmark", "date", "machine", "versions", "rows"} <= document.keys()
    assert document["machine"]["cores"] >= 1
    assert document["versions"]["fedward"]
    absent = [p for p in ("ray", "pfl") if importlib.util.find_spec(p) is None]
    assert len(document["left_out"]) == len(absent)
    for package, said in zip(absent, document["left_out"], strict=True):
        assert package in said
        assert f"left out: {said}" in done.stderr
    assert len(document["rows"]) == sum(
        count for package, count in ROWS_WITH.items() if package not in absent
    )
    for row in document["rows"]:
        assert row.keys() == ROW_KEYS
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        for side in ("ours", "peer"):
            least, greatest = row["spread"][side]
            assert least <= row[side] <= greatest
