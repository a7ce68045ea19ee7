"""The benchmarks of privacy run, and print what programs rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
HEART, BEATS = DATA / "uci_heart_disease", DATA / "mitbih" / "mitbih_beats.npz"
ROW_KEYS = {"name", "unit", "ours", "peer", "ratio", "peer_name", "repeats", "spread"}


def run(name: str, folder: Path, *options: str) -> tuple[dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), "--json", "--quick", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    for row in document["rows"]:
        assert row.keys() == ROW_KEYS
        assert row["ratio"] == pytest.approx(row["ours"] / row["peer"])
        assert 0 <= row["spread"]["ours"][0] <= row["ours"] <= row["spread"]["ours"][1] <= 1
    return document, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not HEART.is_dir(), reason="the UCI heart disease data is not on this machine")
def test_heart_disease_at_a_true_epsilon_of_one_is_above_what_flamby_published(
    tmp_path: Path,
) -> None:
    document, _ = run("flamby_dp.py", tmp_path)

    (row,) = document["rows"]
    assert row["ours"] > 0.75 > row["peer"] == pytest.approx(0.685, abs=5e-4)
    found = document["checks"]["epsilon 1"]
    assert 0.97 < found["epsilon, exact"] <= found["epsilon by the ledgers, at most"] <= 1
    theirs = found["FLamby's epsilon"].values()
    assert (min(theirs), max(theirs)) == (1.45, 4.1)
    assert found["rounds lost"] == found["updates clipped"] == 0


@pytest.mark.slow
@pytest.mark.skipif(not BEATS.is_file(), reason="the MIT-BIH beats are not on this machine")
def test_a_promise_for_a_beat_ends_at_two_beats(tmp_path: Path) -> None:
    document, _ = run("mitbih_dp.py", tmp_path)

    assert [row["unit"] for row in document["rows"]] == ["AUC", "accuracy"]
    checks = document["checks"]
    for name in ("by patient", "by beat"):
        assert 7.9 < checks[name]["epsilon by the ledgers, at most"] <= 8
    assert checks["by beat, for a patient"]["most beats with a delta below 1"] == 2
    assert checks["no privacy"]["auc"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flamby_dp.py", "mitbih_dp.py"])
def test_without_the_data_the_reason_is_said(name: str, tmp_path: Path) -> None:
    document, said = run(name, tmp_path, "--data", str(tmp_path / "nothing"))

    assert document["rows"] == []
    (reason,) = document["left_out"]
    assert "--data" in reason
    assert f"left out: {reason}" in said
