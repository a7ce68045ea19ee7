"""Real services, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.clinic.serving.small_models import (
    SIGNALS,
    linear_model,
    picture_model,
    row_model,
    word_model,
)

_SERVING = re.compile(r"at (https?)://[^ ]+:(\d+); gRPC on [^ ]+:(\d+)")


@dataclass
class Service:
    """A service that answers.

    Attributes:
        port, grpc_port: Where.
        process: Which.
        written: File with all that it writes.
    """

    port: int
    grpc_port: int
    process: subprocess.Popen[bytes]
    written: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self.written.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def serving(models: Sequence[Path], written: Path, *options: str) -> Iterator[Service]:
    command = [str(Path(sys.executable).with_name("fedward")), "serve", *map(str, models)]
    with written.open("wb") as file:
        process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0", *options],
            stdout=file,
            stderr=file,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        )
    try:
        until = time.monotonic() + 120
        while (found := _SERVING.search(written.read_text())) is None:
            assert process.poll() is None, written.read_text()
            assert time.monotonic() < until, written.read_text()
            time.sleep(0.05)
        yield Service(int(found[2]), int(found[3]), process, written)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    made = [
        picture_model(folder / "picture.onnx"),
        row_model(folder / "rows.onnx"),
        word_model(folder / "words.onnx"),
        linear_model(SIGNALS, folder / "signals.onnx", np.ones((20, 2), np.float32)),
    ]
    return {path.stem: path for path in made}


@pytest.fixture(scope="session")
def service(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """On loopback, without a token."""
    written = tmp_path_factory.mktemp("service") / "log"
    with serving(list(models.values()), written, "--megabytes", "4") as found:
        yield found


@pytest.fixture
def web(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=60) as client:
        yield client
        answers = client.post(
            "/v2/models/rows/infer",
            json={
                "inputs": [
                    {"name": "inputs", "shape": [1, 3], "datatype": "FP32", "data": [1, 0, 1]}
                ]
            },
        )
        assert answers.json()["outputs"][0]["data"] == [0.0, 2.0], "it answers no more"
