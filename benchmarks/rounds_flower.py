"""The peer's rounds: a stock SuperLink, stock SuperNodes and Flower's own FedAvg, nothing to train.

Each part is a process of its own, over plain HTTP, as Flower's quickstart starts them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import psutil

BIN = Path(sys.executable).parent
_ENOUGH = 3600.0

_PROJECT = """\
[project]
name = "rounds-flower"
version = "1.0.0"
description = "Rounds of nothing"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "rounds_flower_app:server"
clientapp = "rounds_flower_app:client"

[tool.flwr.app.config]
parameters = 0
nodes = 0
rounds = 0
out = ""
"""

_APP = '''\
import json
import os
import time

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()


@client.train()
def train(message, context):
    arrays = message.content["arrays"]
    reply = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
    return Message(reply, reply_to=message)


class Timed(FedAvg):
    """Flower's FedAvg; a round ends where its mean is made."""

    ends = []

    def aggregate_train(self, server_round, replies):
        found = super().aggregate_train(server_round, replies)
        self.ends.append(time.monotonic())
        with open(self.out + ".rounds", "a", encoding="utf-8") as out:
            out.write(f"{server_round}\\n")
        return found


@server.main()
def main(grid, context):
    config = context.run_config
    nodes = int(config["nodes"])
    while len(list(grid.get_node_ids())) < nodes:
        time.sleep(0.2)
    start = ArrayRecord({"model": Array(np.zeros(int(config["parameters"]), dtype=np.float32))})
    strategy = Timed(
        fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes
    )
    strategy.out = config["out"]
    strategy.ends.append(time.monotonic())
    strategy.start(grid, start, num_rounds=int(config["rounds"]))
    with open(config["out"] + ".new", "w", encoding="utf-8") as out:
        json.dump([b - a for a, b in zip(strategy.ends, strategy.ends[1:])], out)
    os.replace(config["out"] + ".new", config["out"])
'''


def flower_rounds(folder: str, *, parameters: int, hospitals: int, rounds: int) -> dict[str, Any]:
    """Seconds of each round but the first, in which SuperNodes still unpack the app.

    Args:
        folder: Empty; everything that Flower writes is kept in it.
        parameters: Length of the model.
        hospitals: SuperNodes.
        rounds: To be timed.
    """
    seconds, spent = _rounds(Path(folder), parameters, hospitals, rounds)
    return {"seconds": seconds, "processor": spent / rounds}


def _rounds(place: Path, parameters: int, nodes: int, rounds: int) -> tuple[list[float], float]:
    folder, app, out = place, place / "app", place / "seconds.json"
    first = place / "seconds.json.rounds"
    app.mkdir(parents=True)
    (app / "pyproject.toml").write_text(_PROJECT, encoding="utf-8")
    (app / "rounds_flower_app.py").write_text(_APP, encoding="utf-8")
    port = free_port()
    with processes(folder) as start:
        quiet = "--disable-runtime-dependency-installation"
        start("flower-superlink", "--insecure", quiet, "--port", str(port), "--host", "127.0.0.1")
        wait_for(port)
        for number in range(nodes):
            start(
                "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}",
                "--host", "127.0.0.1", "--port", str(free_port()),
                "--node-config", f"number={number}",
            )  # fmt: skip
        home = folder / "home"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\n'
            "insecure = true\n",
            encoding="utf-8",
        )
        config = f'parameters={parameters} nodes={nodes} rounds={rounds + 1} out="{out}"'
        start("flwr", "run", str(app), "here", "--run-config", config)
        _wait_until(first)
        before = _processor_seconds()
        _wait_until(out)
        spent = _processor_seconds() - before
    seconds: list[float] = json.loads(out.read_text(encoding="utf-8"))
    return seconds[1:], spent


def _wait_until(there: Path) -> None:
    last = time.monotonic() + _ENOUGH
    while not there.exists():
        if time.monotonic() > last:
            raise TimeoutError("Flower's run did not end")
        time.sleep(0.1)


def _processor_seconds() -> float:
    """Of all that this process started, and of what that started and saw end."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            spent += sum(process.cpu_times()[:4])
    return spent


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def wait_for(port: int, seconds: float = 60) -> None:
    """Return as soon as somebody listens on a port of this machine."""
    last = time.monotonic() + seconds
    while time.monotonic() < last:
        with socket.socket() as door:
            if door.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


class Start(Protocol):
    """Starts a program of this environment."""

    def __call__(self, program: str, *words: str) -> subprocess.Popen[bytes]:
        """Start it; what it says goes into a file of its own."""


@contextmanager
def processes(folder: Path) -> Iterator[Start]:
    """Start programs of this environment; all of them are gone afterwards, children too."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    started: list[subprocess.Popen[bytes]] = []

    def start(program: str, *words: str) -> subprocess.Popen[bytes]:
        with (folder / f"{len(started):02}-{program}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(BIN / program), *words],
                env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            try:
                os.killpg(process.pid, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for process in started:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
