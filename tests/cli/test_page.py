"""`page`: the address is told to a person at a terminal, and never to a log."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner

from fedward.cli.main import app
from fedward.cli.page import show
from fedward.server.aggregator import PageSettings, found_aggregator, write_aggregator
from fedward.server.state_lock import only_one
from fedward.study.errors import ServiceError
from fedward.web.served_page import ADDRESS_FILE
from fedward.web.uvicorn_server import QuietServer

FEDWARD = Path(sys.executable).with_name("fedward")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An aggregator's file, whose service is to show its page."""
    path = tmp_path / "aggregator.toml"
    made = found_aggregator(path, name="Hub", host="hub.example.org", port=9443)
    write_aggregator(made.file.model_copy(update={"page": PageSettings(port=8090)}), path)
    return path


def test_a_page_that_the_service_shows_is_not_shown_twice(file: Path) -> None:
    state = file.parent / "state"
    state.mkdir()
    command = ["aggregator", "page", "--aggregator", str(file)]
    with only_one(state):
        refused = CliRunner().invoke(app, command)
        assert refused.exit_code != 0
        (state / ADDRESS_FILE).write_text("http://127.0.0.1:8090/?token=secret\n")
        told = CliRunner().invoke(app, command)
    assert told.exit_code == 0, told.output
    assert ADDRESS_FILE in told.output
    assert "secret" not in told.output


def test_a_page_that_ends_by_itself_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(server: QuietServer, **_: object) -> None:
        server.started = True
        time.sleep(0.2)  # and something ends it

    monkeypatch.setattr(QuietServer, "run", run)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    patience = threading.Timer(20, os.kill, (os.getpid(), signal.SIGTERM))
    patience.start()
    try:
        with pytest.raises(ServiceError, match="ended by itself"):
            show(FastAPI(), tmp_path, port=0, name="test")
    finally:
        patience.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert not (tmp_path / ADDRESS_FILE).exists()


@pytest.mark.slow
def test_a_person_at_a_terminal_is_told_an_address_that_opens(file: Path) -> None:
    ours, its = pty.openpty()
    command = [str(FEDWARD), "aggregator", "page", "--aggregator", str(file)]
    process = subprocess.Popen(command, stdout=its, stderr=its, env={**os.environ, "TERM": "dumb"})
    os.close(its)
    said = b""
    last = time.monotonic() + 60
    while b"token=" not in said or not said.endswith(b"\n"):
        assert time.monotonic() < last, said
        said += os.read(ours, 4096)
    address = next(word for word in said.decode().split() if "token=" in word)
    with httpx.Client(trust_env=False) as web:
        assert web.get(address).status_code == 200
        assert "Hub" in web.get(address.partition("?")[0]).text
    process.terminate()
    assert process.wait(30) == 0
    os.close(ours)
