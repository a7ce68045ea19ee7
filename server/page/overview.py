"""How the aggregator stands: its service, its members, its runs; all of it from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from fedward.server.aggregator import Aggregator
from fedward.server.run_registry import RunRecord, RunRegistry
from fedward.server.state_lock import is_running
from fedward.study.errors import FedwardError


class Member(NamedTuple):
    """A hospital of the roster.

    Attributes:
        name: As in the roster.
        online: Whether it gave a sign of life lately.
        seen: When it last did, ISO 8601, UTC; empty if it never did.
    """

    name: str
    online: bool
    seen: str


class Overview(NamedTuple):
    """The aggregator.

    Attributes:
        name: What people call it.
        address: Under which hospitals reach it.
        running: Whether the service runs.
        answers: Whether its SuperLink answers.
        roster: Version of the roster; 0 if there is none.
        members: In the order of their names.
        runs: The newest first.
        trouble: A sentence for each thing that cannot be read.
    """

    name: str
    address: str
    running: bool
    answers: bool
    roster: int
    members: list[Member]
    runs: list[RunRecord]
    trouble: list[str]

    @property
    def online(self) -> list[str]:
        """Names of the hospitals that are there."""
        return [member.name for member in self.members if member.online]

    @property
    def foremost(self) -> str:
        """The run that is shown if none is asked for: one that is live, else the newest."""
        live = [run.name for run in self.runs if run.state in {"running", "waiting"}]
        return next(iter([*live, *(run.name for run in self.runs)]), "")


def runs_of(aggregator: Aggregator) -> RunRegistry:
    """An aggregator's runs."""
    return RunRegistry(aggregator.state / "runs")


def status_of(state: Path) -> dict[str, Any]:
    """What the service last wrote of itself; nothing if nothing readable is there."""
    try:
        found = json.loads((state / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def last_seen(state: Path) -> dict[str, str]:
    """When each hospital last gave a sign of life, ISO 8601, as the service last wrote it."""
    return {str(name): str(at) for name, at in _table(status_of(state), "seen").items()}


def overview_of(aggregator: Aggregator) -> Overview:
    """How an aggregator stands now."""
    trouble: list[str] = []
    running = is_running(aggregator.state)
    status = status_of(aggregator.state)
    answers = running and bool(_table(status, "superlink").get("alive"))
    there, seen = _table(status, "hospitals"), _table(status, "seen")
    names, version = set(there), 0
    try:
        roster = aggregator.roster()
        names, version = set(roster.members), roster.version
    except FedwardError as error:
        trouble.append(error.line())
    members = [
        Member(name, answers and bool(there.get(name)), str(seen.get(name, "")))
        for name in sorted(names)
    ]
    runs = runs_of(aggregator).list(lambda error: trouble.append(error.line()))
    file = aggregator.file
    return Overview(
        name=file.name,
        address=f"{file.host}:{file.port}",
        running=running,
        answers=answers,
        roster=version,
        members=members,
        runs=runs[::-1],
        trouble=trouble,
    )


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}
