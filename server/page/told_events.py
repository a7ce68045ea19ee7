"""A run's events as they were written, put together again as far as a page shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fedward.server.events import Event, Refused, RoundDelayed, RoundFinished, RoundLost
from fedward.server.sentences import lost_sentence, refusal_sentence, troubles
from fedward.study.messages import Refusal

_TAIL = 1 << 20  # bytes: the newest events, of a run of any length


class Failure(NamedTuple):
    """What did not go as it should.

    Attributes:
        at: When, ISO 8601, UTC.
        text: A sentence.
    """

    at: str
    text: str


def newest_events(path: Path) -> list[dict[str, Any]]:
    """The newest lines, the oldest of them first; a torn one is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL))
            lines = file.read(_TAIL).split(b"\n")[:-1]
    except OSError:
        return []
    if size > _TAIL:
        del lines[0]
    return list(_objects(lines))


def _objects(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict) and isinstance(found.get("event"), str):
            yield found


def failures(events: list[dict[str, Any]]) -> Iterator[Failure]:
    """Refusals, lost and delayed rounds, and whatever stopped the run, in words."""
    for line in events:
        at = str(line.get("at", ""))
        if line["event"] == "State":
            if line.get("state") in {"failed", "paused"}:
                yield Failure(at, f"{line['state']}: {line.get('reason', '')}")
            continue
        event = _event(line)
        match event:
            case Refused():
                yield Failure(at, refusal_sentence(event))
            case RoundLost():
                yield Failure(at, lost_sentence(event))
            case RoundDelayed():
                yield Failure(at, f"round {event.round}: {event.why}; asked again")
            case RoundFinished() if found := troubles(event):
                yield Failure(at, f"round {event.round}: {', '.join(found)}")
            case _:
                pass


def _event(line: dict[str, Any]) -> Event | None:
    """The event of a line; None if another version wrote another one."""
    values = {key: value for key, value in line.items() if key not in {"at", "event"}}
    try:
        match line["event"]:
            case "Refused":
                return Refused(values["round"], Refusal(**values["refusal"]))
            case "RoundLost":
                return RoundLost(**values)
            case "RoundDelayed":
                return RoundDelayed(**values)
            case "RoundFinished":
                return RoundFinished(**values)
    except (KeyError, TypeError):
        return None
    return None
