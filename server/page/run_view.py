"""How one run goes, as its folder says."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedward.models.tasks.figures import NAMES, SHARES, shown
from fedward.server.page.curves import Chart, Line, can_be_drawn
from fedward.server.page.told_events import Failure, failures, newest_events
from fedward.server.run_registry import STATISTICS, RunFolder, RunRecord
from fedward.study.errors import FedwardError
from fedward.study.study import Study, read_study

DOWNLOADS = {
    "model.safetensors": "the model",
    "federation.json": "figures on the test part, and versions",
    "rounds.csv": "figures after each round",
    "judged.safetensors": "the sums that the figures come from",
    STATISTICS: "the table of statistics",
    "history.json": "each round so far",
    "study.toml": "the study",
    "study.json": "the study as the coordinator signed it",
    "events.jsonl": "what happened, a line each",
}
"""Files of a run that the page gives, and what they are."""

_MOST_FAILURES = 20


class Stage(NamedTuple):
    """Where a live run is.

    Attributes:
        words: In a sentence.
        round: From 1; 0 before the first one.
        rounds: Of the whole run; 0 if not known.
        answered: Hospitals whose contribution to the round is in.
        waiting: Hospitals that may still be waited for.
        left: How many of them are; fewer than `waiting` where not all were asked.
    """

    words: str
    round: int = 0
    rounds: int = 0
    answered: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    left: int = 0


class Download(NamedTuple):
    """A file of a run.

    Attributes:
        name: Of the file.
        about: What it is.
        size: Bytes.
    """

    name: str
    about: str
    size: int


class RunView(NamedTuple):
    """All that the page says of a run."""

    record: RunRecord
    study: Study | None
    stage: Stage
    charts: list[Chart]
    figures: list[tuple[str, float]]
    failures: list[Failure]
    downloads: list[Download]


def view_of(run: RunFolder, online: Collection[str]) -> RunView:
    """How a run goes.

    Args:
        run: Its folder.
        online: Hospitals that are there now.

    Raises:
        DataError: The folder is no run's.
    """
    record = run.record
    events = newest_events(run.folder / "events.jsonl")
    rows = _rows(run.folder)
    found = list(failures(events))
    return RunView(
        record=record,
        study=_study(run.folder / "study.toml"),
        stage=stage_of(record, events, online),
        charts=list(_charts(rows)),
        figures=list(_figures(events)),
        failures=found[-_MOST_FAILURES:][::-1],
        downloads=[
            Download(name, about, (run.folder / name).stat().st_size)
            for name, about in DOWNLOADS.items()
            if (run.folder / name).is_file()
        ],
    )


def stage_of(record: RunRecord, events: list[dict[str, Any]], online: Collection[str]) -> Stage:
    """What a run does now.

    Args:
        record: Its state.
        events: The newest ones.
        online: Hospitals that are there now.
    """
    begun = _last(events, "RoundStarted")
    over = max(_last(events, "RoundFinished"), _last(events, "RoundLost"))
    last = events[max(begun, over)] if max(begun, over) >= 0 else {}
    number, rounds = _whole(last, "round") or 0, _whole(last, "rounds") or 0
    match record.state:
        case "submitted":
            return Stage("Submitted: the service begins it as soon as it runs.")
        case "waiting":
            return Stage(f"Waiting: {record.reason or 'for hospitals'}.", number, rounds)
        case "paused" | "stopped" | "failed" | "finished":
            why = f": {record.reason}" if record.reason else ""
            return Stage(f"{record.state.capitalize()}{why}.", number, rounds)
        case "running":
            pass
    if over > begun or begun < 0:
        words = "The next round is prepared."
        if rounds and number == rounds:
            words = "All rounds are over: the final model is judged."
        return Stage(words, number, rounds)
    return _in_round(events[begun], events[begun + 1 :], online)


def _in_round(
    started: dict[str, Any], since: list[dict[str, Any]], online: Collection[str]
) -> Stage:
    number, rounds = _whole(started, "round") or 0, _whole(started, "rounds") or 0
    asked = _whole(started, "asked")
    answered = {str(line.get("hospital", "")) for line in since if line["event"] == "Answered"}
    refused = {
        str(line["refusal"].get("hospital", ""))
        for line in since
        if line["event"] == "Refused" and isinstance(line.get("refusal"), dict)
    }
    if asked is None:
        words = f"The hospitals train; {len(answered)} have answered, of how many is not known."
        return Stage(words, number, rounds, tuple(sorted(answered)))
    left = max(0, asked - len(answered | refused))
    waiting = tuple(sorted(set(online) - answered - refused)) if left else ()
    done = f"{len(answered)} of {asked} hospitals have answered"
    words = f"The hospitals train; {done}." if left else f"{done}; their sum is opened."
    return Stage(words, number, rounds, tuple(sorted(answered)), waiting, left)


def _whole(line: dict[str, Any], key: str) -> int | None:
    """A whole number; None if another version wrote none."""
    found = line.get(key)
    return found if type(found) is int else None


def _last(events: list[dict[str, Any]], kind: str) -> int:
    return max((i for i, line in enumerate(events) if line["event"] == kind), default=-1)


def _study(path: Path) -> Study | None:
    try:
        return read_study(path)
    except FedwardError:
        return None


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Figures after 0, 1, ... rounds, as far as the run has come."""
    try:
        with (folder / "rounds.csv").open(encoding="utf-8", newline="") as file:
            return [
                {key: value for key, value in row.items() if value} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError):
        pass
    try:
        rounds = json.loads((folder / "history.json").read_bytes())["rounds"]
        # Round r measures the model as it was before.
        return [
            {"round": record["round"] - 1, "part": record["part"], **record["metrics"]}
            for record in rounds
            if record.get("metrics")
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _charts(rows: list[dict[str, Any]]) -> Iterator[Chart]:
    """Shares, which have one axis, and the others, which have one each."""
    lines = {}
    for name in shown({key: None for row in rows for key in row}):
        points = tuple(
            (float(row["round"]), value)
            for row in rows
            if (value := _number(row, name)) is not None
        )
        if points:
            lines[name] = Line(NAMES[name], points)
    part = str(rows[0].get("part", "")) if rows else ""
    shares = [line for name, line in lines.items() if name in SHARES]
    if shares:
        yield Chart(f"On the {part} part, after each round", tuple(shares), (0.0, 1.0))
    for name, line in lines.items():
        if name not in SHARES:
            values = [y for _, y in line.points if can_be_drawn(y)] or [0.0]
            yield Chart(f"{NAMES[name]} on the {part} part", (line,), (min(values), max(values)))


def _number(row: dict[str, Any], name: str) -> float | None:
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):
        return None


def _figures(events: list[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """The finished model's foremost figures on the test part."""
    place = _last(events, "Outcome")
    test = events[place].get("test") if place >= 0 else None
    if not isinstance(test, dict):
        return
    for name in shown(test):
        value = _number(test, name)
        if value is not None:
            yield NAMES[name], value
