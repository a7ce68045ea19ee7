"""What secure aggregation costs, beside Flower's SecAgg+ functions and plain float32 averaging.

    python benchmarks/secure_aggregation.py [--json] [--rounds N] [--quick]

The sides take turns; see README.md for what each row is. `--rounds N`: at most N repeats of a row.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import secure_aggregation_flower as flower_client
import secure_aggregation_flower_server as flower
import secure_aggregation_memory as memory
import secure_aggregation_ours as ours
import secure_aggregation_plain as plain
import secure_aggregation_wire as wire
from parts import measure
from report import Report, arguments, row, show
from secure_aggregation_mask import mask_rows
from secure_aggregation_profile import client_parts
from secure_aggregation_turns import (
    DISTINCT,
    Limits,
    Side,
    few_in_turn,
    in_turns,
    normal_vector,
    random_words,
    time_rows,
)

PACKAGES = ("fedward", "flwr", "cryptography", "pycryptodome", "numpy")
FLOWER, PLAIN = "Flower SecAgg", "plain float32"
LIMITS = Limits(most=15, seconds=20)
ENOUGH = 3  # repeats; fewer are said under `left_out`
FREE = Path("/proc/meminfo")


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    hospitals: tuple[int, ...] = (4, 16, 64)
    parameters: tuple[int, ...] = (10**5, 10**6, 10**7)
    memory: tuple[int, ...] = (10**6, 10**7)
    mask: int = 10**7
    limits: Limits = LIMITS


QUICK = Sizes((4, 5), (10**3,), (10**4,), 10**5, Limits(most=2, seconds=1))
TARGETS = {
    "one mask of 10,000,000 words, 1 thread": 1.3,
    "a hospital's round, n=16, 10,000,000 parameters": 0.25,
}
MOST_MODELS, MOST_BYTES = 4.0, 4.0


def main() -> None:
    """Measure, and print."""
    options = arguments("Cost of secure aggregation.").parse_args()
    sizes = QUICK if options.quick else Sizes()
    if options.rounds is not None:
        sizes = replace(sizes, limits=replace(sizes.limits, most=options.rounds))
    report = Report("secure_aggregation")
    report.checks["load before"] = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        _sums_are_right(report, Path(folder))
        report.rows += mask_rows(sizes.mask, sizes.limits)
        for hospitals in sizes.hospitals:
            _rounds(report, sizes, hospitals, Path(folder) / str(hospitals))
        _wire(report, sizes, Path(folder) / "wire")
        _memory(report, sizes, Path(folder) / "memory")
    report.checks["load after"] = os.getloadavg()
    _judge(report)
    for line in report.left_out:
        print(f"left out: {line}", file=sys.stderr)
    show(report, packages=PACKAGES, as_json=options.json)


def _sums_are_right(report: Report, folder: Path) -> None:
    """Whole protocols of both, with a dropout: each off by at most one step of its code."""
    found = {
        "ours": ours.error_of_sum(4, 1, 1000, folder / "check"),
        "Flower": flower.error_of_sum(4, 1, 1000),
    }
    if not all(error <= 1.01 for error in found.values()):  # 1.01: the plain mean rounds too
        sys.exit(f"a sum is wrong: {found}")
    report.checks["largest error of a mean, in steps of the code"] = found


def _rounds(report: Report, sizes: Sizes, hospitals: int, folder: Path) -> None:
    consortium, cohort = ours.Consortium(hospitals, folder), flower_client.Cohort(hospitals)
    tenth = max(1, round(hospitals / 10))
    prepared = {d: (ours.prepare(consortium, d), flower.prepare(cohort, d)) for d in (0, tenth)}
    for size in sizes.parameters:
        name = f"a hospital's round, n={hospitals}, {size:,} parameters"
        _compare(report, name, _clients(consortium, cohort, size), sizes.limits)
        report.checks[f"CPU ms of {name}, by part"] = client_parts(consortium, size)
        for dropped, (mine, theirs) in prepared.items():
            name = f"the aggregator's round, n={hospitals}, {dropped} dropped, {size:,} parameters"
            _compare(report, name, _sums(mine, theirs, size), sizes.limits)


def _clients(
    consortium: ours.Consortium, cohort: flower_client.Cohort, size: int
) -> dict[str, Side]:
    update = normal_vector(size)
    legacy = flower_client.parameters_of(update)
    return {
        "ours": lambda: ours.client_time(consortium, update),
        FLOWER: lambda: flower_client.client_time(cohort, legacy),
        PLAIN: lambda: plain.client_time(update),
    }


def _sums(mine: ours.Prepared, theirs: flower.Prepared, size: int) -> dict[str, Side]:
    words = [random_words(size, seed=seed) for seed in range(DISTINCT)]
    masked, packed = [one.tobytes() for one in words], [flower.packed(one) for one in words]
    floats = [normal_vector(size, seed=seed).tobytes() for seed in range(DISTINCT)]
    count = len(mine.masked)
    return {
        "ours": lambda: ours.aggregator_time(mine, few_in_turn(masked, count), size),
        FLOWER: lambda: flower.aggregator_time(theirs, few_in_turn(packed, count)),
        PLAIN: lambda: plain.aggregator_time(few_in_turn(floats, count), size),
    }


def _compare(report: Report, name: str, sides: dict[str, Side], limits: Limits) -> None:
    print(name, file=sys.stderr, flush=True)
    found = in_turns(sides, limits)
    repeats = len(found["ours"])
    if repeats < min(ENOUGH, limits.most):
        report.left_out.append(f"{name}: {repeats} of {limits.most} repeats, to end in time")
    for peer in (FLOWER, PLAIN):
        report.rows += time_rows(name, found["ours"], found[peer], peer_name=peer)


def _wire(report: Report, sizes: Sizes, folder: Path) -> None:
    for hospitals in sizes.hospitals:
        for size in sizes.parameters:
            own = wire.of_ours(hospitals, size, folder / f"{hospitals}-{size}")
            sides = {FLOWER: wire.of_flower(hospitals, size), PLAIN: wire.of_plain(size)}
            for peer, theirs in sides.items():
                totals = [[sum(way.values()) / size] for way in (own, theirs)]
                name = f"bytes a parameter, n={hospitals}, {size:,} parameters"
                report.rows.append(row(name, *totals, unit="B", peer_name=peer))
            key = f"bytes, n={hospitals}, {size:,} parameters"
            report.checks[key] = {"ours": own, **sides}


def _memory(report: Report, sizes: Sizes, folder: Path) -> None:
    hospitals = sizes.hospitals[-1]
    if not memory.RESET.exists():
        report.left_out.append("peak memory: it is read from /proc, which only Linux has")
        return
    for size in sizes.memory:
        here = folder / str(size)
        here.mkdir(parents=True)
        memory.write_vectors(here, size)
        name = f"peak memory of the aggregator, n={hospitals}, {size:,} parameters"

        def models(side: str, here: Path = here, size: int = size, **more: bool | str) -> float:
            told = {"folder": str(here), "size": size, "hospitals": hospitals, **more}
            found = measure("secure_aggregation_memory", f"of_{side}", **told)["models"]
            return float(found)

        own = [models("ours", arriving="bytes", trace=False)]
        beside = {PLAIN: [models("plain", trace=False)]}
        if 8 * size * hospitals * 1.5 < _free_bytes():
            beside = {FLOWER: [models("flower", trace=False)], **beside}
        else:
            report.left_out.append(f"{name}: Flower's, for lack of memory")
        for peer, theirs in beside.items():
            report.rows.append(row(name, own, theirs, unit="models", peer_name=peer))
        for arriving, what in (("messages", "messages inflated"), ("emptied", "and emptied")):
            found, limit = [models("ours", arriving=arriving, trace=False)], [MOST_MODELS]
            report.rows.append(
                row(f"{name}, {what}", found, limit, unit="models", peer_name="the limit")
            )
        traced = models("ours", arriving="bytes", trace=True)
        report.checks[f"models by tracemalloc, {size:,} parameters"] = traced


def _free_bytes() -> float:
    lines = FREE.read_text(encoding="utf-8").splitlines() if FREE.exists() else []
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith("MemAvailable")), 0)


def _judge(report: Report) -> None:
    """Which of the targets were reached in this run."""

    def judge(name: str, found: float, most: float) -> None:
        said = "reached" if round(found, 2) <= most else "missed"
        report.checks[f"target: {name}"] = f"{found:.4g}, at most {most}: {said}"

    for entry in report.rows:
        if entry.name in TARGETS and entry.peer_name != PLAIN:
            judge(f"{entry.name}, {entry.unit}", entry.ratio, TARGETS[entry.name])
        elif entry.unit == "models" and entry.peer_name in (PLAIN, "the limit"):
            judge(entry.name, entry.ours, MOST_MODELS)
        elif entry.unit == "B" and entry.peer_name == PLAIN:
            judge(entry.name, entry.ours, MOST_BYTES)


if __name__ == "__main__":
    main()
