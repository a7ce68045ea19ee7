"""What a round costs when there is nothing to train, beside stock Flower and NVFLARE's simulator.

    python benchmarks/rounds.py [--json] [--rounds N] [--quick] [--no-where] [--memory] ...

Ours is a whole consortium on this machine: a SuperLink behind the gate with TLS, secure
aggregation, journals, audit logs and checkpoints on. See README.md for what each row is.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from parts import measure
from report import Report, arguments, row, show
from rounds_where import where_time_goes

PACKAGES = ("fedward", "flwr", "nvflare", "torch", "numpy")
PEERS = {"flower": "stock Flower", "nvflare": "NVFLARE's simulator"}


@dataclass(frozen=True)
class Case:
    """One size, and how many rounds of it are timed on each side."""

    parameters: int
    hospitals: int
    ours: int
    peers: int


CASES = (
    Case(10_000, 2, ours=20, peers=4),
    Case(10_000, 8, ours=10, peers=2),
    Case(10_000_000, 2, ours=5, peers=3),
    Case(10_000_000, 8, ours=3, peers=2),
)
QUICK = (Case(2_000, 2, ours=20, peers=1),)
WARM_UP = 2
TARGETS = {10_000: 20.0, 10_000_000: 3.0}
MOST_SECONDS = 0.5  # a round of 10^4 parameters
MEMORY = Case(10_000, 2, ours=500, peers=0)
GROWTH = 2.0  # MB in the second half of the rounds; one model kept a round would come to 10


def main() -> None:
    """Measure what can be measured here, and print it."""
    options = _options()
    report = Report("rounds")
    if options.memory:
        _memory(report, options.rounds or (30 if options.quick else MEMORY.ours))
    else:
        for case in _cases(options):
            _measure(report, case, where=not options.no_where)
    for line in report.left_out:
        print(f"left out: {line}", file=sys.stderr)
    show(report, packages=PACKAGES, as_json=options.json)


def _options() -> argparse.Namespace:
    parser = arguments("Seconds a round.")
    parser.add_argument("--no-where", action="store_true", help="do not look at where time goes")
    parser.add_argument("--memory", action="store_true", help="500 rounds: does memory grow?")
    parser.add_argument("--only", help="cases such as 10000x2,10000000x8")
    parser.add_argument("--ours", action="store_true", help="no peers")
    parser.add_argument("--peer-rounds", type=int, help="rounds of the peers that are timed")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> list[Case]:
    cases = list(QUICK if options.quick else CASES)
    if options.only:
        wanted = options.only.split(",")
        cases = [case for case in cases if f"{case.parameters}x{case.hospitals}" in wanted]
    if options.rounds:
        cases = [replace(case, ours=options.rounds, peers=options.rounds) for case in cases]
    if options.peer_rounds:
        cases = [replace(case, peers=options.peer_rounds) for case in cases]
    return [replace(case, peers=0) for case in cases] if options.ours else cases


def _measure(report: Report, case: Case, *, where: bool) -> None:
    size = {"parameters": case.parameters, "hospitals": case.hospitals}
    name = f"{case.parameters:,} parameters, {case.hospitals} hospitals"
    print(f"{name} ...", file=sys.stderr)
    load = [os.getloadavg()[0]]
    ours = _in_a_folder(
        lambda folder: measure(
            "rounds_ours", "our_rounds", folder=folder, rounds=case.ours, warm_up=WARM_UP, **size
        )
    )
    load.append(os.getloadavg()[0])
    found: dict[str, Any] = {
        "seconds": statistics.median(ours["seconds"]),
        "processor seconds a round": {k: round(v, 4) for k, v in ours["processor"].items()},
        "processor seconds a round, all": round(sum(ours["processor"].values()), 4),
    }
    for package, peer in PEERS.items() if case.peers else ():
        theirs = _peer(report, package, case, size)
        if theirs is None:
            continue
        report.rows.append(row(name, ours["seconds"], theirs["seconds"], unit="s", peer_name=peer))
        spent = theirs.get("processor")
        if spent is not None:
            found[f"processor seconds a round, {peer}"] = round(spent, 4)
        if package == "flower":
            _compare(found, case, statistics.median(theirs["seconds"]))
    load.append(os.getloadavg()[0])
    if where and case.hospitals == 2:
        found["where"] = _where(case, size)
    found["load"] = [round(one, 1) for one in load]
    report.checks[name] = found
    print(f"{name}: {found}", file=sys.stderr)  # a long benchmark may be ended before its table


def _compare(found: dict[str, Any], case: Case, peer: float) -> None:
    """Whether the targets were reached, in this run."""
    times = peer / found["seconds"]
    found["times faster than stock Flower"] = round(times, 1)
    wanted = TARGETS.get(case.parameters)
    if wanted is not None:
        found[f"at least {wanted:g} times"] = times >= wanted
    if case.parameters == min(TARGETS):
        found[f"at most {MOST_SECONDS} s"] = found["seconds"] <= MOST_SECONDS


def _peer(report: Report, package: str, case: Case, size: dict[str, int]) -> dict[str, Any] | None:
    if package == "nvflare" and importlib.util.find_spec("nvflare") is None:
        said = "nvflare is not installed (benchmarks/requirements.txt)"
        if said not in report.left_out:
            report.left_out.append(said)
        return None
    return _in_a_folder(
        lambda folder: measure(
            f"rounds_{package}", f"{package}_rounds", folder=folder, rounds=case.peers, **size
        )
    )


def _where(case: Case, size: dict[str, int]) -> dict[str, dict[str, float]]:
    """A run of its own: looking costs time too."""

    def look(folder: str) -> dict[str, Any]:
        samples = Path(folder) / "samples"
        samples.mkdir()
        rounds = min(case.ours, 20)
        return measure(
            "rounds_ours",
            "our_rounds",
            folder=folder,
            rounds=rounds,
            warm_up=WARM_UP,
            samples=str(samples),
            **size,
        )

    return where_time_goes(_in_a_folder(look))


def _memory(report: Report, rounds: int) -> None:
    case, every = MEMORY, max(1, rounds // 10)
    size = {"parameters": case.parameters, "hospitals": case.hospitals}
    found = _in_a_folder(
        lambda folder: measure(
            "rounds_ours", "our_memory", folder=folder, rounds=rounds, every=every, **size
        )
    )
    for line in found["memory"]:
        rest = ", ".join(f"{k} {v:.1f}" for k, v in line.items() if k != "round")
        report.checks[f"MB after round {line['round']}"] = rest
    grown = growth(found["memory"])
    report.checks["MB grown in the second half"] = {k: round(v, 1) for k, v in grown.items()}
    report.checks[f"flat: at most {GROWTH:g} MB"] = (
        max(grown.values()) <= GROWTH if rounds >= case.ours else f"only {rounds} rounds"
    )


def growth(lines: list[dict[str, float]]) -> dict[str, float]:
    """How much more each part holds at the end than after half of the rounds, in MB."""
    half, last = lines[(len(lines) - 1) // 2], lines[-1]
    return {part: last.get(part, math.inf) - half[part] for part in half if part != "round"}


def _in_a_folder(work: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return work(folder)


if __name__ == "__main__":
    main()
