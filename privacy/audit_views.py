"""Two hospitals' audit logs beside each other: were both asked the same?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fedward.privacy.audit_log import Entry, Line
from fedward.study.messages import EVALUATE, TRAIN

_WITH_MODEL = {TRAIN, EVALUATE}
_SHOWN = 12  # digits of a digest


class Exchange(NamedTuple):
    """One exchange of a run that brings a model.

    Attributes:
        run: Name of the run.
        round: From 1.
        kind: `train` or `evaluate`.
    """

    run: str
    round: int
    kind: str


@dataclass(frozen=True)
class Comparison:
    """What two logs say together.

    Attributes:
        both: Exchanges in which both answered with a contribution.
        ours: Those in which only the first did.
        theirs: Those in which only the second did.
        contradictions: What cannot be if the aggregator told both the same, one sentence each.
    """

    both: tuple[Exchange, ...]
    ours: tuple[Exchange, ...]
    theirs: tuple[Exchange, ...]
    contradictions: tuple[str, ...]


def compare(ours: Iterable[Line], theirs: Iterable[Line]) -> Comparison:
    """Hold two verified logs against each other.

    An aggregator that shows one hospital another model than the rest learns from the sum what that
    hospital alone made of it; the models that arrived are therefore in the log.

    Args:
        ours: Lines of one hospital.
        theirs: Lines of another.
    """
    views = [[line.entry for line in lines] for lines in (ours, theirs)]
    here, there = (_contributed(view) for view in views)
    contradictions = [*_models(*views), *_studies(*views)]
    return Comparison(
        both=tuple(sorted(here & there)),
        ours=tuple(sorted(here - there)),
        theirs=tuple(sorted(there - here)),
        contradictions=tuple(contradictions),
    )


def _contributed(view: list[Entry]) -> set[Exchange]:
    return {
        Exchange(entry.run, entry.round, entry.kind)
        for entry in view
        if entry.direction == "out" and entry.kind in _WITH_MODEL and not entry.refused
    }


def _models(ours: list[Entry], theirs: list[Entry]) -> list[str]:
    """Every exchange to which more than one model came, at one hospital or at both."""
    here, there = _told(ours), _told(theirs)
    found = []
    for exchange in sorted({*here, *there}):
        told = (here.get(exchange, []), there.get(exchange, []))
        if len({model for models in told for model in models}) > 1:
            words = " and ".join(
                f"{name} was told {', '.join(_short(model) for model in models)}"
                for name, models in zip(_names(ours, theirs), told, strict=True)
                if models
            )
            found.append(
                f"run {exchange.run}, round {exchange.round} ({exchange.kind}): two models: {words}"
            )
    return found


def _told(view: list[Entry]) -> Mapping[Exchange, list[str]]:
    told: dict[Exchange, dict[str, None]] = defaultdict(dict)  # in the order in which they came
    for entry in view:
        if entry.direction == "in" and entry.model is not None:
            told[Exchange(entry.run, entry.round, entry.kind)][entry.model] = None
    return {exchange: list(models) for exchange, models in told.items()}


def _studies(ours: list[Entry], theirs: list[Entry]) -> list[str]:
    """Every run that was named together with more than one study."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for entry in (*ours, *theirs):
        if entry.run and entry.study:
            found[entry.run][entry.study] = None
    return [
        f"run {run}: two studies: {', '.join(_short(study) for study in studies)}"
        for run, studies in sorted(found.items())
        if len(studies) > 1
    ]


def _names(ours: list[Entry], theirs: list[Entry]) -> tuple[str, str]:
    return (ours[0].hospital if ours else "", theirs[0].hospital if theirs else "")


def _short(digest: str) -> str:
    return digest[:_SHOWN]
