"""`flwr run .` runs Fedward's apps on Flower's own SuperLink, for hospitals that were split."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Flower's home in this test's folder, and its SuperLink gone afterwards."""
    port = free_port()
    yield {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(tmp_path / "flower"),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    mine = f"FLWR_HOME={tmp_path / 'flower'}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mine in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGTERM)
        except OSError:  # it ended by itself, or is not ours
            continue


def run(*words: object, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_flwr_run_trains_the_demo(tmp_path: Path, environment: dict[str, str]) -> None:
    study, out = ROOT / "examples" / "breast-cancer.toml", tmp_path / "out"
    hospitals = tmp_path / "hospitals"
    run(BIN / "fedward", "split", study, "--out", hospitals, environment=environment)
    config = f'study="{study}" hospitals="{hospitals}" out="{out}"'
    federation = "num-supernodes=4 client-resources-num-cpus=1"
    words = ["run", ".", "local", "--run-config", config, "--federation-config", federation]
    run(BIN / "flwr", *words, environment=environment)

    # The command returns when the run is submitted; its outcome is the file that the server writes.
    last = time.monotonic() + 240
    while not (out / "federation.json").exists() and time.monotonic() < last:
        time.sleep(0.5)
    found = json.loads((out / "federation.json").read_text("utf-8"))
    assert found["test"]["auc"] > 0.95
    assert (out / "model.safetensors").exists()
