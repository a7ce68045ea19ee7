"""The live view of a federation: a moving line in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedward.cli.console import messages
from fedward.privacy.schedule import epsilon_after
from fedward.server.events import (
    Answered,
    Event,
    Listener,
    Outcome,
    Refused,
    RoundFinished,
    RoundLost,
    RoundStarted,
)
from fedward.server.sentences import judged, lost_sentence, refusal_sentence, sentence
from fedward.study.study import Study


@contextmanager
def watch(study: Study) -> Iterator[Listener]:
    """A listener that shows a run of this study for as long as the context is open."""
    if not messages.is_terminal:
        yield _PlainLines(study)
        return
    view = _LiveView(study)
    with Live(view.picture(), console=messages, refresh_per_second=8, transient=True) as live:

        def listen(event: Event) -> None:
            view(event)
            live.update(view.picture())

        yield listen


class _PlainLines:
    """One line a finished round."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __call__(self, event: Event) -> None:
        line = None if isinstance(event, Outcome) else sentence(event)
        if line is None:
            return
        spent = _epsilon(self._study, event.round) if isinstance(event, RoundFinished) else []
        messages.print("  ".join([line, *spent]))


class _LiveView:
    """A bar of rounds, a bar of hospitals, and the last figures."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._figures: list[str] = []
        self._epsilon: list[str] = []
        self._refusals: list[str] = []
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=32),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            console=messages,
        )
        self._rounds = self._bars.add_task("rounds", total=study.training.rounds, said="")
        self._hospitals = self._bars.add_task(
            "hospitals", total=study.participation.asked, said="waiting"
        )

    def __call__(self, event: Event) -> None:
        match event:
            case RoundStarted():
                self._bars.reset(self._hospitals, total=event.asked)
            case Answered():
                self._bars.update(self._hospitals, advance=1, said=event.hospital)
            case Refused():
                self._refusals.append(refusal_sentence(event))
            case RoundFinished():
                self._bars.update(self._rounds, completed=event.round)
                figures = judged(event.metrics, rounds=event.round - 1)
                self._epsilon = _epsilon(self._study, event.round) or self._epsilon
                self._figures = [*figures, *self._epsilon]
            case RoundLost():
                self._refusals.append(lost_sentence(event))

    def picture(self) -> Group:
        """What is on the screen now."""
        table = Table.grid(padding=(0, 2))
        table.add_row(*self._figures)
        return Group(self._bars, table, *self._refusals[-3:])


def _epsilon(study: Study, rounds: int) -> list[str]:
    """Epsilon after about twenty of the rounds: composing it takes a tenth of a second."""
    if rounds % max(1, study.training.rounds // 20) and rounds != study.training.rounds:
        return []
    epsilon = epsilon_after(study, rounds)
    return [] if epsilon is None else [f"epsilon <= {epsilon:.2f}"]
