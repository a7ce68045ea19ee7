"""Runs of the registry with trackers beside them, one of them a real MLflow server if there is one.

The server comes from the program `mlflow`, on the PATH or where FEDWARD_MLFLOW says; `make test`
installs one aside (.venv-mlflow), for Fedward's own environment cannot hold it beside Flower.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fedward.privacy.signed_study import sign_study
from fedward.server.app import make_app
from fedward.server.events import Event, RoundStarted
from fedward.server.run_registry import RunFolder, RunRegistry, Wanted
from fedward.server.tracked_run import _trackers_for
from fedward.server.tracker_targets import Targets
from fedward.study.study import Study
from tests.secure_sites import Sites
from tests.server.conftest import context
from tests.server.cut_off import Killed, Watched, private_study, sites_of

STUDY = private_study()


def submitted(folder: Path) -> tuple[RunFolder, Sites]:
    sites = sites_of(folder / "s", STUDY)
    registry = RunRegistry(folder / "runs")
    registry.set_roster((sites.files["a"].parent.parent / "roster.json").read_bytes())
    document = sign_study(STUDY, sites.coordinator)
    return registry.create(STUDY, document, seed=5, name="run"), sites


def started(run: RunFolder, grid: Watched, *to: str, listen: Any = lambda _: None) -> None:  # noqa: ANN401
    tracking = Targets(to, str(run.folder.parent.parent)).document()
    make_app(listen)(grid, context(folder=str(run.folder), tracking=tracking))


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_run_that_was_killed_and_taken_up_is_in_tensorboard_whole(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, sites = submitted(tmp_path)
    files = list(sites.files.values())
    with (
        Watched(files, lambda s, n: s[:3] == ("pulled", "unmask", 2) and s.node == 2) as grid,
        pytest.raises(Killed),
    ):
        started(run, grid, "tensorboard:tb")
    with Watched(files) as grid:
        started(run, grid, "tensorboard:tb")

    assert run.record.state == "finished"
    found = accumulator.EventAccumulator(str(tmp_path / "tb" / "run"))
    found.Reload()
    assert [e.step for e in found.Scalars("round/answered")] == [1, 2, 3]
    outcome = json.loads((run.folder / "federation.json").read_text("utf-8"))["test"]
    assert found.Scalars("final/test/auc")[0].value == pytest.approx(outcome["auc"])
    model = found.Tensors("about/sha256.model.safetensors")[0].tensor_proto.string_val
    assert model == [digest(run.folder / "model.safetensors").encode()]


def test_trackers_that_do_not_work_are_lines_in_the_run_s_log(tmp_path: Path) -> None:
    run, sites = submitted(tmp_path)
    (tmp_path / "file").touch()
    away = f"http://127.0.0.1:{closed_port()}"
    with Watched(list(sites.files.values())) as grid:
        started(run, grid, f"mlflow:{away}", "tensorboard:file")

    assert run.record.state == "finished"
    said = run.log.read_text("utf-8")
    assert f"MLflow at {away} does not answer (ConnectError" in said
    assert f"TensorBoard's folder {tmp_path / 'file'} does not answer" in said
    assert "Traceback" not in said


def test_a_tracker_that_cannot_be_is_a_line_too(tmp_path: Path) -> None:
    run, sites = submitted(tmp_path)
    with Watched(list(sites.files.values())) as grid:
        started(run, grid, "wandb:x")
    assert run.record.state == "finished"
    assert "the run is not tracked (track: names no tracker" in run.log.read_text("utf-8")


@pytest.mark.parametrize("wants", ["statistics", "evaluation"])
def test_a_run_that_trains_nothing_is_not_tracked(tmp_path: Path, wants: Wanted) -> None:
    run, _ = submitted(tmp_path)
    run_file = run.folder / "run.json"
    values = json.loads(run_file.read_text("utf-8"))
    run_file.write_text(json.dumps({**values, "wants": wants}), "utf-8")
    assert run.record.wants == wants
    tracking = Targets(("tensorboard:tb",), str(tmp_path)).document()
    assert _trackers_for(run, tracking) is None


def test_a_run_that_has_finished_is_not_tracked_again(tmp_path: Path) -> None:
    run, _ = submitted(tmp_path)
    run.mark("finished")
    with Watched([]) as grid:
        started(run, grid, "tensorboard:tb")
    assert not (tmp_path / "tb").exists()


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server."""
    program = os.environ.get("FEDWARD_MLFLOW") or shutil.which("mlflow")
    if program is None:
        pytest.skip("no program mlflow: see the head of this file")
    folder, port = tmp_path_factory.mktemp("mlflow"), closed_port()
    words = ("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    store = ("--backend-store-uri", f"sqlite:///{folder}/ml.db")
    artifacts = ("--default-artifact-root", str(folder / "artifacts"))
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, *words, *store, *artifacts],
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, server, folder / "log")
        yield address
    finally:
        os.killpg(server.pid, 15)  # it has workers of its own
        server.wait(30)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    pytest.fail(log.read_text("utf-8", errors="replace")[-2000:])


def runs_of(address: str, study: Study) -> list[dict[str, Any]]:
    api = f"{address}/api/2.0/mlflow"
    asked = {"experiment_name": study.study.name}
    experiment = httpx.get(f"{api}/experiments/get-by-name", params=asked).json()["experiment"]
    body = {"experiment_ids": [experiment["experiment_id"]]}
    found: list[dict[str, Any]] = httpx.post(f"{api}/runs/search", json=body).json()["runs"]
    return found


def pairs(values: list[dict[str, Any]]) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in values}


@pytest.mark.slow
def test_a_real_mlflow_has_a_run_that_was_stopped_and_resumed_once_and_whole(
    mlflow: str, tmp_path: Path
) -> None:
    run, sites = submitted(tmp_path)
    files = list(sites.files.values())

    def listen(event: Event) -> None:
        if isinstance(event, RoundStarted) and event.round == 2:
            run.ask_to_stop()

    with Watched(files) as grid:
        started(run, grid, f"mlflow:{mlflow}", listen=listen)
    assert run.stop_asked is False
    assert [each["info"]["status"] for each in runs_of(mlflow, STUDY)] == ["KILLED"]
    with Watched(files) as grid:
        started(run, grid, f"mlflow:{mlflow}")
    assert run.record.state == "finished"

    (found,) = runs_of(mlflow, STUDY)
    assert (found["info"]["run_name"], found["info"]["status"]) == ("run", "FINISHED")
    settings, tags = pairs(found["data"]["params"]), pairs(found["data"]["tags"])
    assert settings["study.digest"] == STUDY.digest()
    assert settings["training.rounds"] == "3"
    assert tags["sha256.model.safetensors"] == digest(run.folder / "model.safetensors")
    outcome = json.loads((run.folder / "federation.json").read_text("utf-8"))["test"]
    assert pairs(found["data"]["metrics"])["final/test/auc"] == outcome["auc"]
    asked = {"run_id": found["info"]["run_id"], "metric_key": "round/answered"}
    history = httpx.get(f"{mlflow}/api/2.0/mlflow/metrics/get-history", params=asked).json()
    assert [each.get("step", 0) for each in history["metrics"]] == [1, 2, 3]


@pytest.mark.slow
def test_a_real_mlflow_keeps_two_aggregators_runs_of_one_name_apart(
    mlflow: str, tmp_path: Path
) -> None:
    before = len(runs_of(mlflow, STUDY)) if _has(mlflow) else 0
    for folder in ("one", "two"):
        run, sites = submitted(tmp_path / folder)
        with Watched(list(sites.files.values())) as grid:
            started(run, grid, f"mlflow:{mlflow}")
    assert len(runs_of(mlflow, STUDY)) == before + 2


def _has(address: str) -> bool:
    asked = {"experiment_name": STUDY.study.name}
    path = "api/2.0/mlflow/experiments/get-by-name"
    return httpx.get(f"{address}/{path}", params=asked).status_code == 200
