"""What every benchmark prints: a table for people, or one JSON document for programs."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """Ours beside the peer's: medians over the repeats of one run."""

    name: str
    unit: str
    ours: float
    peer: float
    ratio: float
    peer_name: str
    repeats: int
    spread: dict[str, list[float]]


@dataclass
class Report:
    """One run of one benchmark: rows, what was left out and why, what was checked."""

    benchmark: str
    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)


def row(
    name: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str,
    peer_name: str,
    middle_of: Callable[[Sequence[float]], float] = statistics.median,
) -> Row:
    """Medians (or means), their ratio, and least and greatest of each side."""
    middle, beside = middle_of(ours), middle_of(peer)
    spread = {"ours": [min(ours), max(ours)], "peer": [min(peer), max(peer)]}
    return Row(name, unit, middle, beside, middle / beside, peer_name, len(ours), spread)


def mean(values: Iterable[float | None]) -> float:
    """Their mean, to three places."""
    return round(statistics.fmean(value for value in values if value is not None), 3)


def nobody(what: object) -> None:
    """Listens to nothing that happens in a run."""


def arguments(description: str, *, timed: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has; one that measures no time has no `--rounds`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    if timed:
        parser.add_argument("--rounds", type=int, help="rounds that are timed in each repeat")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    return parser


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def heading(benchmark: str, packages: Sequence[str]) -> dict[str, Any]:
    """Which benchmark ran when, where and with what."""
    return {
        "benchmark": benchmark,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": {"cores": cores(), "processor": _processor(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **_versions(packages)},
    }


def show(report: Report, *, packages: Sequence[str], as_json: bool) -> None:
    """Print the report."""
    document = {
        **heading(report.benchmark, packages),
        "rows": [asdict(entry) for entry in report.rows],
        "left_out": report.left_out,
        "checks": report.checks,
    }
    if as_json:
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        _print_table(report, document)


def _print_table(report: Report, document: dict[str, Any]) -> None:
    table = Table("", "ours", "peer", "ratio", "unit", "peer is", "repeats")
    for entry in report.rows:
        sides = [
            f"{middle:.4g}\n({entry.spread[side][0]:.4g} to {entry.spread[side][1]:.4g})"
            for side, middle in (("ours", entry.ours), ("peer", entry.peer))
        ]
        table.add_row(
            entry.name, *sides, f"{entry.ratio:.3g}", entry.unit, entry.peer_name,
            str(entry.repeats),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"{document['date']}, {document['machine']}, {document['versions']}", style="dim")
    for name, found in report.checks.items():
        console.print(f"check {name}: {found}", style="dim")


def _versions(packages: Sequence[str]) -> dict[str, str | None]:
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
