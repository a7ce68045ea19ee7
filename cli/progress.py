"""The live view of a federation: a moving line in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from fedward.cli.console import messages
from fedward.client.data.context import Progress, unseen
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

_DECODING = "decoding"


@contextmanager
def watch(study: Study) -> Iterator[tuple[Listener, Progress]]:
    """What shows a run of this study, and a first decoding, for as long as the context is open."""
    if not messages.is_terminal:
        yield _PlainLines(study), unseen
        return
    view = _LiveView(study)
    with Live(view.picture(), console=messages, refresh_per_second=8, transient=True) as live:

        def listen(event: Event) -> None:
            view(event)
            live.update(view.picture())

        def decode(done: int, total: int) -> None:
            view.decoding(done, total)
            live.update(view.picture())

        yield listen, decode


@contextmanager
def decoding_bar() -> Iterator[Progress]:
    """A bar for the first decoding of records, where there is one, in a terminal."""
    if not messages.is_terminal:
        yield unseen
        return
    with _bars(transient=True) as bars:

        def show(done: int, total: int) -> None:
            if not bars.tasks:
                bars.add_task(_DECODING, said="")
            bars.update(bars.tasks[0].id, completed=done, total=total)

        yield show


def _bars(*, transient: bool = False) -> Bars:
    return Bars(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[said]}", markup=False),
        console=messages,
        transient=transient,
    )


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
        self._bars = _bars()
        self._decoding = self._bars.add_task(_DECODING, said="", visible=False)
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

    def decoding(self, done: int, total: int) -> None:
        """Show how much is decoded, until all is."""
        self._bars.update(self._decoding, completed=done, total=total, visible=done < total)

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
