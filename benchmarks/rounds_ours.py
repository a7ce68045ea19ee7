"""Our rounds: a whole consortium on this machine, every part a process, over the gate with TLS.

What a process uses is read from outside (`psutil`); what it does, by `rounds_sampler` in a run of
its own.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from fedward.server.run_registry import RunFolder
from fedward.simulation.deployment import Deployment
from fedward.study.study import Study, parse_study

RECORDS = 12  # a hospital's; it trains one step on two of them
SAMPLER = Path(__file__).with_name("rounds_sampler")
_ENOUGH = 3600.0

Uses = dict[int, tuple[str, float, int]]
"""Of each process: which part it is, its processor seconds, its resident bytes."""


def network(parameters: int) -> tuple[int, int, int]:
    """Features and widths of two hidden layers that come to exactly so many parameters.

    The hidden layers are as equally wide as divisors allow.
    """
    found: list[tuple[int, int, int, int]] = []
    for features in range(2, 13):
        product = parameters - 2 + 3 * (features + 1)
        for divisor in range(math.isqrt(product), 3, -1):
            if product % divisor == 0:
                first, second = divisor - 3, product // divisor - features - 1
                if min(first, second) > 0:
                    found.append((abs(first - second), features, first, second))
                break
    if not found:
        raise ValueError(f"no perceptron of two hidden layers has {parameters} parameters")
    return min(found)[1:]


def study_of(parameters: int, hospitals: int, rounds: int) -> Study:
    """A secure study in which there is next to nothing to train: one step on two records."""
    features, *hidden = network(parameters)
    return parse_study(
        {
            "study": {"name": "rounds"},
            "task": {"kind": "binary", "classes": ["well", "ill"]},
            "model": {"name": "mlp", "hidden": hidden},
            "data": {
                "kind": "table",
                "features": {f"f{number}": {} for number in range(features)},
                "label": "label",
                "parts": {"by": "random", "train": 0.5, "validation": 0.25, "test": 0.25},
            },
            "training": {
                "rounds": rounds,
                "local_steps": 1,
                "batch_size": 2,
                "learning_rate": 0.001,
            },
            "aggregation": {
                "strategy": "fedavg",
                "max_records": RECORDS,
                "two_hospitals": hospitals == 2,
            },
            "participation": {"hospitals": hospitals, "deadline_seconds": 300.0},
            "simulation": {"split": "iid", "source": {"format": "csv"}},
        }
    )


def write_records(path: Path, study: Study) -> None:
    """As many rows of nothing as the study's hospitals hold."""
    names = [*study.data.features, "label"]
    count = RECORDS * study.participation.hospitals
    rows = [
        ",".join([*(f"0.{(7 * row + 3 * column) % 10}" for column in range(len(names) - 1)), word])
        for row, word in zip(range(count), ["well", "ill"] * count, strict=False)
    ]
    path.write_text("\n".join([",".join(names), *rows]) + "\n", encoding="utf-8")


def our_rounds(
    folder: str, *, parameters: int, hospitals: int, rounds: int, warm_up: int, samples: str = ""
) -> dict[str, Any]:
    """Seconds of each round but the first ones, processor seconds a round, and the samples.

    Args:
        folder: Empty; the whole consortium is kept in it.
        parameters: Length of the model.
        hospitals: How many.
        rounds: To be timed.
        warm_up: Not to be timed, before.
        samples: Folder for what processes were doing; they are not looked at if it is empty.
    """
    study = study_of(parameters, hospitals, warm_up + rounds)
    with _consortium(study, Path(folder), samples) as run:
        _wait_for_round(run, warm_up)
        before, began = processes(), time.time()
        _wait_for_round(run, warm_up + rounds)
        after, ended = processes(), time.time()
    times = [_at(line) for line in _finished(run)]
    seconds = [later - earlier for earlier, later in itertools.pairwise(times)]
    used: Counter[str] = Counter()
    for number, (part, spent, _) in after.items():
        used[part] += (spent - before.get(number, (part, 0.0, 0))[1]) / rounds
    return {
        "seconds": seconds[warm_up - 1 :],
        "processor": dict(used),
        "stacks": sampled(Path(samples), began, ended) if samples else {},
        "window": ended - began,
    }


def our_memory(
    folder: str, *, parameters: int, rounds: int, every: int, hospitals: int
) -> dict[str, Any]:
    """Resident megabytes of each part after every so many rounds, the most of its kind."""
    study = study_of(parameters, hospitals, rounds + 2)  # all are still there after the last look
    found = []
    with _consortium(study, Path(folder), "") as run:
        for number in range(every, rounds + 1, every):
            _wait_for_round(run, number)
            kinds: dict[str, float] = {}
            for part, _, resident in processes().values():
                kinds[part] = max(kinds.get(part, 0.0), resident / 2**20)
            found.append({"round": number, **kinds})
    return {"memory": found}


@contextmanager
def _consortium(study: Study, folder: Path, samples: str) -> Iterator[RunFolder]:
    """A run under way; everything has ended afterwards."""
    data = folder / "records.csv"
    write_records(data, study)
    with _environment(samples):
        deployment = Deployment.found(study, data, folder / "consortium", seed=1)
        with deployment:
            run = deployment.submit(study, seed=1)
            deployment.approve(study)
            yield run
            record = deployment.wait(run, seconds=_ENOUGH)
            if record.state != "finished":
                raise RuntimeError(f"the run is {record.state}: {record.reason}")


@contextmanager
def _environment(samples: str) -> Iterator[None]:
    """One PyTorch thread a hospital: they share a machine here, as they never do in earnest."""
    changed = {"OMP_NUM_THREADS": "1"}
    if samples:
        path = os.pathsep.join(filter(None, [str(SAMPLER), os.environ.get("PYTHONPATH", "")]))
        changed |= {"PYTHONPATH": path, "ROUNDS_SAMPLES": samples}
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _finished(run: RunFolder) -> list[dict[str, Any]]:
    path = run.folder / "events.jsonl"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if any(line["event"] in {"RoundLost", "RoundDelayed"} for line in lines):
        raise RuntimeError(f"a round was lost: {lines[-1]}")
    return [line for line in lines if line["event"] == "RoundFinished"]


def _at(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()


def _wait_for_round(run: RunFolder, number: int) -> None:
    last = time.monotonic() + _ENOUGH
    while len(_finished(run)) < number:
        if run.record.state in {"failed", "paused", "stopped"} or time.monotonic() > last:
            raise RuntimeError(f"the run is {run.record.state}: {run.record.reason}")
        time.sleep(0.1)


def processes() -> Uses:
    """Every process that this one started, and what started from it."""
    found: Uses = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = process.cpu_times()
            resident = process.memory_info().rss
            found[process.pid] = (part_of(process.cmdline()), times.user + times.system, resident)
    return found


def part_of(words: list[str]) -> str:
    """Which part of the consortium a process is, by its command."""
    line = " ".join(words)
    for mark, part in (
        ("fedward.client.worker", "worker"),
        ("hospital start", "daemon"),
        ("aggregator start", "gate"),
        ("flower-superlink", "SuperLink"),
        ("flwr-serverapp", "ServerApp"),
        ("flower-superexec", "SuperExec"),
    ):
        if mark in line:
            return part
    return "other"


def sampled(folder: Path, began: float, ended: float) -> dict[str, dict[str, int]]:
    """How often each stack was seen between two moments, by part."""
    found: dict[str, Counter[str]] = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if began < entry["at"] <= ended:
                stacks = found.setdefault(part_of(entry["words"]), Counter())
                stacks.update(entry["stacks"])
    return {part: dict(stacks) for part, stacks in found.items()}
