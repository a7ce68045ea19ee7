"""What trackers are told of a run: settings and figures, and of hospitals only counts."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedward.models.judged import JUDGED
from fedward.privacy.model_log import digest_of
from fedward.privacy.schedule import epsilon_after
from fedward.server.events import Event, Outcome, RoundFinished, RoundLost
from fedward.study.study import Study

_ARTIFACTS = (
    *("study.toml", "model.safetensors", "federation.json", "rounds.csv", JUDGED),
    *("result.json", "curves.png"),
)
_WHOLE_TABLES = ("task", "model", "training", "aggregation", "participation", "privacy")
_LONGEST = 500  # letters of a value: what every version of MLflow takes
_NOT_METRICS = {"records", "threshold"}


class Point(NamedTuple):
    """One figure.

    Attributes:
        name: Such as `validation/auc`.
        value: Finite.
        step: Rounds that the model had been trained for, or the round that it is about.
        at: When, seconds since 1970: the same point sent twice stays one.
    """

    name: str
    value: float
    step: int
    at: float


def settings_of(study: Study, seed: int) -> dict[str, str]:
    """The study's settings and the seed, by dotted names; of `[data]` single values only."""
    tables = study.model_dump(mode="json", exclude_none=True)
    found = {"study.name": study.study.name, "study.digest": study.digest(), "seed": str(seed)}
    for table in _WHOLE_TABLES:
        found |= dict(_flat(tables.get(table, {}), table))
    data = {k: v for k, v in tables["data"].items() if isinstance(v, str | int | float)}
    return found | dict(_flat(data, "data"))


def digests_of(folder: Path) -> dict[str, str]:
    """SHA-256 of each result in a run's folder, by the file's name.

    Raises:
        DataError: One cannot be read.
    """
    found = {name: digest_of(folder / name) for name in _ARTIFACTS}
    return {name: digest for name, digest in found.items() if digest is not None}


def points_of(event: Event, study: Study, at: float) -> list[Point]:
    """The figures of an event, none of most events; `at` is when it was, seconds since 1970."""
    match event:
        case RoundFinished():
            named = list(_of_round(event, study))
        case RoundLost():
            named = [("round/lost", 1.0, event.round)]
        case Outcome():
            named = list(_of_outcome(event, study))
        case _:
            named = []
    return [Point(*each, at) for each in named if math.isfinite(each[1])]


def _of_round(event: RoundFinished, study: Study) -> Iterator[tuple[str, float, int]]:
    for name, value in _figures(event.metrics or {}, event.part or ""):
        yield name, value, event.round - 1  # of the model as it was before this round
    for name in ("seconds", "answered", "silent", "failed", "clipped", "capped", "attempts"):
        yield f"round/{name}", float(getattr(event, name)), event.round
    often = max(1, study.training.rounds // 20)  # composing it takes a tenth of a second
    if event.round % often == 0 or event.round == study.training.rounds:
        yield from _epsilon("epsilon", study, event.round)


def _of_outcome(event: Outcome, study: Study) -> Iterator[tuple[str, float, int]]:
    rounds = len(event.rounds)
    if event.curve and event.curve[-1] is not None:
        for name, value in _figures(event.curve[-1], event.part or ""):
            yield name, value, len(event.curve) - 1
    parts = (("test", event.test), ("validation", event.validation), ("personal", event.personal))
    for part, metrics in parts:
        for name, value in _figures(metrics or {}, f"final/{part}"):
            yield name, value, rounds
    yield "final/threshold", event.threshold, rounds
    yield "final/seconds", event.seconds, rounds
    if event.early_stopping is not None:
        yield "final/round_kept", float(event.early_stopping["round"]), rounds
    yield from _epsilon("final/epsilon", study, rounds)


def _epsilon(name: str, study: Study, rounds: int) -> Iterator[tuple[str, float, int]]:
    """The most that a hospital's patients lost, if it was in every round."""
    epsilon = epsilon_after(study, rounds) if rounds else None
    if epsilon is not None:
        yield name, epsilon, rounds


def _figures(metrics: Mapping[str, Any], part: str) -> Iterator[tuple[str, float]]:
    """Each number below the names that lead to it."""
    for name, value in metrics.items():
        path = f"{part}/{_word(name)}" if part else _word(name)
        if isinstance(value, Mapping):
            yield from _figures(value, path)
        elif isinstance(value, int | float) and name not in _NOT_METRICS:
            yield path, float(value)


def _flat(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        inner = f"{path}.{_word(name)}"
        if isinstance(value, Mapping):
            yield from _flat(value, inner)
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield inner, text[:_LONGEST]


def _word(text: str) -> str:
    """A name of a class, as trackers take one: they have files or paths of such names."""
    word = re.sub(r"[^\w. -]", "_", text)[:80]
    return word if word.strip(". ") else "_"
