"""`fedward aggregator logs`: hospitals wrote some of what it prints on an operator's terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedward.cli.aggregator import app
from fedward.server.aggregator import Aggregator, found_aggregator
from fedward.server.run_registry import RunRegistry
from tests.server.cut_off import private_study


@pytest.fixture
def hub(tmp_path: Path) -> Aggregator:
    return found_aggregator(tmp_path / "aggregator.toml", name="Hub", host="hub.org", port=9443)


def test_what_a_hospital_said_cannot_move_the_terminal_s_cursor(
    hub: Aggregator, tmp_path: Path
) -> None:
    run = RunRegistry(hub.state / "runs").create(private_study(), b"{}", name="a")
    (run.folder / "events.jsonl").write_text('{"what": "north \u202e is away"}\n{"n": 2}\n')
    run.log.parent.mkdir(parents=True, exist_ok=True)
    run.log.write_bytes(b"\x1b[2Jnode 1: \x1b]0;owned\x07\r\xc2\x9b31m failed\nlast line")

    said = CliRunner().invoke(app, ["logs", "a", "--aggregator", str(tmp_path / "aggregator.toml")])

    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert all(line.isprintable() for line in said.stdout.split("\n"))
    assert lines[0] == '{"what": "north \ufffd is away"}'
    assert lines[1] == '{"n": 2}'
    assert lines[-1] == "last line"
    assert "node 1: " in said.stdout
