"""How much Fedward's simulation costs, beside training itself, Flower on Ray, and pfl-research.

    python benchmarks/simulation.py [--json] [--rounds N] [--quick]

Every measurement runs in a fresh process, the sides in turns; see README.md for what each row is.
A peer that is not installed is left out, and that is said on stderr.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parts import measure
from report import Report, arguments, cores, row, show
from simulation_cohort import write_pictures
from simulation_tiny import HOSPITALS, WARM_UP, write_records

LIMIT_MS = 20.0
COHORT_WARM_UP = 2
PACKAGES = ("fedward", "flwr", "ray", "pfl", "torch", "numpy")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    tiny_rounds: int = 100
    flower_rounds: int = 40
    total_rounds: int = 10
    cohort_rounds: int = 8
    tiny_repeats: int = 5
    flower_repeats: int = 3
    cohort_repeats: int = 3
    users: int = 1000
    pictures: int = 50
    cohort: int = 50


QUICK = Sizes(
    tiny_rounds=5,
    flower_rounds=3,
    total_rounds=3,
    cohort_rounds=2,
    tiny_repeats=2,
    flower_repeats=1,
    cohort_repeats=1,
    users=12,
    pictures=20,
    cohort=4,
)


def main() -> None:
    """Measure what can be measured here, and print it."""
    options = arguments("Cost of a simulated round.").parse_args()
    sizes = _sizes(options.rounds, quick=options.quick)
    report = Report("simulation")
    with tempfile.TemporaryDirectory() as folder:
        _tiny(report, sizes, Path(folder))
        _cohort(report, sizes, Path(folder))
    for line in report.left_out:
        print(f"left out: {line}", file=sys.stderr)
    show(report, packages=PACKAGES, as_json=options.json)


def _sizes(rounds: int | None, *, quick: bool) -> Sizes:
    sizes = QUICK if quick else Sizes()
    if rounds is None:
        return sizes
    return Sizes(
        **vars(sizes) | {"tiny_rounds": rounds, "flower_rounds": rounds, "cohort_rounds": rounds}
    )


def _tiny(report: Report, sizes: Sizes, folder: Path) -> None:
    data = folder / "records.csv"
    write_records(data)
    cost = measure(
        "simulation_tiny",
        "cost_of_rounds",
        data=str(data),
        rounds=sizes.tiny_rounds,
        repeats=sizes.tiny_repeats,
    )
    beyond = [1e3 * (a - b) for a, b in zip(cost["whole"], cost["bare"], strict=True)]
    limit = [LIMIT_MS] * len(beyond)
    name = f"a round of {HOSPITALS} hospitals beyond training"
    report.rows.append(row(name, beyond, limit, unit="ms", peer_name="the limit"))
    report.checks["training alone, ms a round"] = 1e3 * statistics.median(cost["bare"])
    if not _installed("ray", report):
        return
    _beside_flower(report, sizes, str(data))


def _beside_flower(report: Report, sizes: Sizes, data: str) -> None:
    timed = sizes.flower_rounds + WARM_UP
    rounds: dict[str, list[float]] = {"simulation_tiny": [], "simulation_flower": []}
    totals: dict[str, list[float]] = {"simulation_tiny": [], "simulation_flower": []}
    functions = {"simulation_tiny": "rounds_of_ours", "simulation_flower": "rounds_of_flower"}
    for _ in range(sizes.flower_repeats):
        for module, function in functions.items():
            found = measure(module, function, data=data, rounds=timed)
            rounds[module].append(1e3 * statistics.median(found["rounds"][WARM_UP:]))
            found = measure(module, function, data=data, rounds=sizes.total_rounds)
            totals[module].append(found["process_seconds"])
    peer = "Flower on Ray"
    report.rows += [
        row("a tiny round", *rounds.values(), unit="ms", peer_name=peer),
        row(
            f"start-up and {sizes.total_rounds} tiny rounds",
            *totals.values(),
            unit="s",
            peer_name=peer,
        ),
    ]


def _cohort(report: Report, sizes: Sizes, folder: Path) -> None:
    if not _installed("pfl", report):
        return
    data, hospitals = folder / "pictures.npz", folder / "hospitals"
    write_pictures(data, sizes.users * sizes.pictures)
    size = {
        "users": sizes.users,
        "cohort": sizes.cohort,
        "rounds": sizes.cohort_rounds + COHORT_WARM_UP,
    }
    here = {"data": str(data), **size}
    measure("simulation_cohort", "make", folder=str(hospitals), **here)
    sides = {
        "ours, 1 process": ("simulation_cohort", "rounds_of_ours", {"workers": 1}),
        "ours, all cores": ("simulation_cohort", "rounds_of_ours", {"workers": cores()}),
        "pfl, 1 thread": ("simulation_pfl", "rounds_of_pfl", {"threads": 1}),
        "pfl, default threads": ("simulation_pfl", "rounds_of_pfl", {"threads": None}),
    }
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(sizes.cohort_repeats):
        for side, (module, function, more) in sides.items():
            own = {"folder": str(hospitals)} if module == "simulation_cohort" else {}
            found[side].append(measure(module, function, **here, **own, **more))
    _compare_cohorts(report, sizes, found)


def _compare_cohorts(report: Report, sizes: Sizes, found: dict[str, list[dict[str, Any]]]) -> None:
    seconds = {
        side: [statistics.median(one["rounds"][COHORT_WARM_UP:]) for one in repeats]
        for side, repeats in found.items()
    }
    peer = min(
        ("pfl, 1 thread", "pfl, default threads"), key=lambda s: statistics.median(seconds[s])
    )
    for side in ("ours, 1 process", "ours, all cores"):
        name = f"{sizes.cohort} of {sizes.users} users, {side.removeprefix('ours, ')}"
        report.rows.append(row(name, seconds[side], seconds[peer], unit="s", peer_name=peer))
    for side, repeats in found.items():
        report.checks[side] = {
            "seconds": statistics.median(seconds[side]),
            **{key: repeats[0][key] for key in ("steps", "parameters", "loss")},
        }
    _same_work(found)
    if sizes.users > QUICK.users:  # so few pictures teach too little to see
        _all_learn(found)


def _same_work(found: dict[str, list[dict[str, Any]]]) -> None:
    """Stop when the sides did not do the same: figures of unlike work are worth nothing."""
    runs = [run for repeats in found.values() for run in repeats]
    for key in ("steps", "parameters"):
        if len({run[key] for run in runs} - {None}) != 1:
            sys.exit(f"the sides differ in {key}: { {s: r[0][key] for s, r in found.items()} }")


def _all_learn(found: dict[str, list[dict[str, Any]]]) -> None:
    for side, repeats in found.items():
        for before, after in (run["loss"] for run in repeats):
            if not after < before:
                sys.exit(f"{side} does not learn: loss {before} before, {after} after")


def _installed(package: str, report: Report) -> bool:
    there = importlib.util.find_spec(package) is not None
    if not there:
        report.left_out.append(f"{package} is not installed (benchmarks/requirements.txt)")
    return there


if __name__ == "__main__":
    main()
