"""The service under load loses no answer and gives none wrongly; the figures are no matter here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_no_answer_is_lost_or_wrong() -> None:
    found = subprocess.run(
        [sys.executable, "benchmarks/serving.py", "--quick", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    rows = {row["way"]: row for row in json.loads(found.stdout)["rows"]}
    for way in ("fedward, http", "fedward, grpc"):
        assert rows[way]["answers"] > 20
        assert (rows[way]["lost"], rows[way]["wrong"]) == (0, 0)
        assert 0 < rows[way]["p50_ms"] <= rows[way]["p99_ms"]
