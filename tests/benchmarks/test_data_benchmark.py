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
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
    told = [(row["name"].split(", ")[-1], row["unit"]) for row in document["rows"]]
    epochs = ["read", "first epoch", "first epoch", "cached epoch", "cached epoch"]
    epochs += ["first epoch", "cached epoch"]  # beside MONAI's
    units = ["records/s", "records/processor s"]
    assert told == [(epoch, unit) for epoch in epochs for unit in units]
    assert len(document["checks"]) == 14


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["csv", "parquet", "npz", "wfdb", "dicom", "dicom_jpeg2000", "dicom_overlay", "small_png"],
)
def test_every_kind_is_read_alike_by_both_sides(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick", "--rounds", "1", "--only", name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {row["unit"] for row in rows} == {"records/s", "records/processor s"}
    assert all(row["ours"] > 0 and row["peer"] > 0 for row in rows)
