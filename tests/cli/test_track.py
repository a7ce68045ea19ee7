"""`fedward simulate --track`, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Fedward, write_study, write_table

SECRET = "s3cr3t-w0rd"


@pytest.mark.slow
def test_a_simulation_is_in_tensorboard_and_a_server_that_is_away_is_a_line(
    fedward: Fedward, tmp_path: Path
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    study, data = write_study(tmp_path), tmp_path / "data.csv"
    write_table(data)
    words = ("simulate", study, "--data", data, "--workers", "1", "--no-baselines")
    trackers = ("--track", "tensorboard:runs", "--track", "mlflow:http://127.0.0.1:9")
    said = fedward(*words, "--out", "runs/one", *trackers, MLFLOW_TRACKING_TOKEN=SECRET)
    assert said.code == 0, said.err
    lines = [line for line in said.err.splitlines() if "MLflow" in line]
    assert len(lines) >= 1
    assert "does not answer" in " ".join(said.err.split())
    assert SECRET not in said.err + said.out
    assert "Traceback" not in said.err

    found = accumulator.EventAccumulator(str(tmp_path / "runs" / "one"))
    found.Reload()
    result = json.loads((tmp_path / "runs" / "one" / "result.json").read_text("utf-8"))
    value = found.Scalars("final/test/auc")[0].value
    assert value == pytest.approx(result["metrics"]["federated"]["auc"])
    assert [e.step for e in found.Scalars("round/answered")] == [1, 2]
    assert found.Tensors("about/sha256.result.json")


def test_a_tracker_that_is_none_is_refused_before_anything_is_done(
    fedward: Fedward, tmp_path: Path
) -> None:
    study = write_study(tmp_path)
    target = f"mlflow:https://ada:{SECRET}@host"
    line = fedward("simulate", study, "--out", "run", "--track", target).only_error()
    assert "a password" in line
    assert SECRET not in line
    assert not (tmp_path / "run").exists()
