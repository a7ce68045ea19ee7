"""The benchmark of rounds runs a whole consortium, and prints what programs rely on."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fedward.models import flat
from fedward.models.registry import build, settled
from tests.benchmarks.conftest import ModuleNamed

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "rounds.py"


@pytest.mark.slow
def test_a_quick_run_prints_one_json_document(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--json", "--quick"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    [name] = document["checks"]
    found = document["checks"][name]
    assert found["processor seconds a round"].keys() >= {"SuperLink", "ServerApp", "daemon"}
    assert found["seconds"] > 0
    assert sum(found["where"]["ServerApp"].values()) == pytest.approx(1, abs=0.01)
    assert "stock Flower" in {row["peer_name"] for row in document["rows"]}
    absent = importlib.util.find_spec("nvflare") is None
    assert any("nvflare" in said for said in document["left_out"]) == absent


@pytest.mark.parametrize("parameters", [2_000, 10_000, 1_000_000])
def test_the_network_has_exactly_so_many_parameters(
    module_named: ModuleNamed, parameters: int
) -> None:
    study = settled(module_named("rounds_ours").study_of(parameters, 2, 3))

    assert len(flat.flatten(build(study, seed=0))) == parameters


def test_ten_million_too(module_named: ModuleNamed) -> None:
    features, first, second = module_named("rounds_ours").network(10_000_000)

    assert (features + 1) * first + (first + 1) * second + 2 * (second + 1) == 10_000_000


def test_a_number_that_no_such_network_has(module_named: ModuleNamed) -> None:
    with pytest.raises(ValueError, match="no perceptron"):
        module_named("rounds_ours").network(3)


@pytest.mark.parametrize(
    ("stack", "about"),
    [
        ("server/durable:write_to_disk;server/checkpoint:save", "checkpoints"),
        ("server/exchange:_pause;server/exchange:_replies", "polling"),
        ("python3.11/ssl:read;_sync/http11:read;client/fleet:_call", "HTTP"),
        ("multiprocessing/connection:_recv;client/worker:ask;client/daemon:_serve",
         "the worker at work"),
        ("multiprocessing/connection:_recv;client/worker:serve", "waiting"),
        ("somewhere:else", "other"),
    ],
)  # fmt: skip
def test_a_stack_is_about_one_thing(module_named: ModuleNamed, stack: str, about: str) -> None:
    assert module_named("rounds_where").kind_of(stack.split(";")) == about


def test_a_part_that_was_never_seen_has_no_shares(module_named: ModuleNamed) -> None:
    seen = {part: {"main;somewhere:else": 3} for part in ("ServerApp", "daemon", "worker")}
    where = module_named("rounds_where").where_time_goes
    assert where({"stacks": seen})["worker"] == {"other": 1}

    with pytest.raises(RuntimeError, match="the worker was not seen once"):
        where({"stacks": {**seen, "worker": {"other;somewhere:else": 3}}})


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("python -P -m fedward.client.worker hospital.toml 5 1", "worker"),
        ("python fedward hospital start --hospital hospital.toml", "daemon"),
        ("python fedward aggregator start --aggregator aggregator.toml", "gate"),
        ("python flower-superlink --host 127.0.0.1", "SuperLink"),
        ("python flwr-serverapp --token x", "ServerApp"),
    ],
)
def test_each_process_is_one_part(module_named: ModuleNamed, words: str, part: str) -> None:
    assert module_named("rounds_ours").part_of(words.split()) == part


def test_memory_has_grown_by_what_the_second_half_of_the_rounds_added(
    module_named: ModuleNamed,
) -> None:
    lines = [
        {"round": 50.0 * i, "daemon": 100 + min(i, 5), "SuperLink": 100.0 + i} for i in range(1, 11)
    ]

    assert module_named("rounds").growth(lines) == {"daemon": 0, "SuperLink": 5}
