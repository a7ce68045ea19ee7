"""Events as lines of text, for logs and plain terminals."""

from __future__ import annotations

import logging

from fedward.models.tasks.figures import NAMES, shown
from fedward.server.events import (
    Event,
    Metrics,
    Outcome,
    Refused,
    RoundDelayed,
    RoundFinished,
    RoundLost,
)

_LOG = logging.getLogger("flwr.fedward")  # below Flower's logger, whose handlers stream it


def log_event(event: Event) -> None:
    """A listener that writes what happens to Flower's log."""
    if (line := sentence(event)) is not None:
        _LOG.info(line)


def sentence(event: Event) -> str | None:
    """One line for what a reader of a log wants to know; None for the rest."""
    match event:
        case Refused():
            return refusal_sentence(event)
        case RoundFinished():
            words = [
                f"round {event.round}/{event.rounds}",
                f"{event.answered} hospitals",
                f"{event.seconds:.2f} s",
                *troubles(event),
            ]
            return "  ".join([*words, *judged(event.metrics, rounds=event.round - 1)])
        case RoundLost():
            return lost_sentence(event)
        case RoundDelayed():
            again = f"asked again in {event.seconds:.0f} s"
            return f"round {event.round}/{event.rounds}  {again}: {event.why}"
        case Outcome():
            which = kept_sentence(event)
            return "  ".join([f"final model{which}, test part:", *known_figures(event.test)])
        case _:
            return None


def kept_sentence(event: Outcome) -> str:
    """Which round's model a run with early stopping came to; nothing for another run."""
    kept = event.early_stopping
    if kept is None:
        return ""
    value = "" if kept["value"] is None else f", {kept['metric']} {kept['value']:.3f}"
    return f" (of round {kept['round']}, {kept['trained']} trained{value} on validation)"


def lost_sentence(event: RoundLost) -> str:
    """A round without a sum."""
    times = "" if event.attempts == 1 else f" after {event.attempts} attempts"
    return f"round {event.round}/{event.rounds}  given up{times}: {event.why}"


def troubles(event: RoundFinished) -> list[str]:
    """What did not go as it should in a round that came to a sum."""
    found = []
    if event.silent:
        found.append(f"{event.silent} silent")
    if event.attempts > 1:
        found.append(f"attempt {event.attempts}")
    if event.failed:
        found.append(f"{event.failed} could not train")
    if event.clipped:
        found.append(f"{event.clipped} clipped")
    return found


def refusal_sentence(event: Refused) -> str:
    """Who declined or failed, why, and what to do."""
    refusal = event.refusal
    todo = f"; {refusal.todo}" if refusal.todo else ""
    return f"round {event.round}: hospital {refusal.hospital}: {refusal.what}{todo}"


def judged(metrics: Metrics | None, *, rounds: int) -> list[str]:
    """The figures of a model after so many rounds; none where nothing was measured."""
    return [] if metrics is None else [f"after {rounds} rounds:", *known_figures(metrics)]


def known_figures(metrics: Metrics) -> list[str]:
    """The foremost metrics and the loss, as far as they are known."""
    known = [key for key in shown(metrics) if metrics.get(key) is not None]
    return [f"{NAMES[key]} {metrics[key]:.3f}" for key in known]
