"""`fedward aggregator models`, `approve` and `retire`, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedward.server.aggregator import found_aggregator
from fedward.server.model_registry import MODEL, ModelRegistry
from fedward.server.run_registry import RunRegistry
from tests.cli.conftest import Fedward
from tests.server.cut_off import private_study

WHO = ("--by", "Dr Ada Chen", "--reason", "good on our records")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An aggregator in this test's folder, with a finished run `a`."""
    hub = found_aggregator(tmp_path / "aggregator.toml", name="Hub", host="hub.org", port=9443)
    runs = hub.state / "runs"
    run = RunRegistry(runs).create(private_study(), b"{}", name="a")
    (run.folder / MODEL).write_bytes(b"a model")
    ModelRegistry(runs).enter(run)
    run.mark("finished")
    return runs


@pytest.mark.slow
def test_a_model_is_listed_approved_and_retired(fedward: Fedward, runs: Path) -> None:
    (listed,) = json.loads(fedward("aggregator", "models", "--json").out)
    assert (listed["run"], listed["stage"], listed["fits"]) == ("a", "candidate", True)

    said = fedward("aggregator", "approve", "a", *WHO)
    assert said.code == 0, said.err
    assert said.out.startswith("a is approved now")
    row = said.out.split()[-1]
    assert "approved" in fedward("aggregator", "models").out
    assert fedward("aggregator", "models", "--knows", row).code == 0
    assert "no row" in fedward("aggregator", "models", "--knows", "0" * 64).only_error()

    assert fedward("aggregator", "retire", "a", *WHO).code == 0
    history = fedward("aggregator", "models", "a").out
    places = [history.index(word) for word in ("candidate by", "approved by", "retired by")]
    assert places == sorted(places)
    assert "cannot become approved" in fedward("aggregator", "approve", "a", *WHO).only_error()


def test_a_changed_model_is_told_with_exit_code_1(fedward: Fedward, runs: Path) -> None:
    (runs / "a" / MODEL).write_bytes(b"another")
    said = fedward("aggregator", "models")
    assert said.code == 1
    assert "CHANGED" in said.out
    assert "was changed" in said.err
    assert "not the one" in fedward("aggregator", "approve", "a", *WHO).only_error()


def test_without_person_or_reason_nothing_is_decided(fedward: Fedward, runs: Path) -> None:
    assert fedward("aggregator", "approve", "a").code == 2
    assert fedward("aggregator", "retire", "a", "--by", "x").code == 2
    assert "--by" in fedward("aggregator", "retire", "a", "--by", "", "--reason", "x").only_error()
    assert ModelRegistry(runs).models()[0].now.stage == "candidate"


def test_a_changed_log_is_one_line(fedward: Fedward, runs: Path) -> None:
    (runs / "models.sqlite").unlink()
    assert "row 1 of the log of models" in fedward("aggregator", "models").only_error(1)
