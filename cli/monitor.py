"""`fedward monitor`: whether a served model still sees what it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import messages, output

if TYPE_CHECKING:
    from fedward.clinic.watching.folder import About, Figures
    from fedward.clinic.watching.told import Watching


def monitor(
    state: Annotated[
        Path, typer.Argument(help="Folder of fedward serve --watch-state.", show_default=False)
    ],
    *,
    model: Annotated[
        str | None, typer.Option(help="Name of one model, if several are watched.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV of answers' ids and labels that have come since."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write it to this new JSON file.")] = None,
) -> None:
    """Show drift by feature, and the metric when labels have come.

    It reads what `fedward serve` counted beside its answers; the service may be running. What is
    shown is of no fewer records than a cell must have, and moves by as many, labels' figures too.
    With --labels, which needs a service with --keep-scores, those go to the service's /metrics.
    """
    from fedward.clinic.new_file import refuse_place, write_new
    from fedward.clinic.watching.folder import models_in
    from fedward.clinic.watching.told import as_json, watching
    from fedward.study.errors import OptionError

    if out is not None:
        refuse_place(out)
    names = models_in(state)
    if model is not None and model not in names:
        raise OptionError(f"--model {model}", todo=f"watched there: {', '.join(names)}")
    chosen = names if model is None else [model]
    if labels is not None and len(chosen) > 1:
        raise OptionError("labels of which model?", todo=f"give --model of {', '.join(names)}")
    found = [watching(state, name, labels) for name in chosen]
    for each in found:
        _show(each)
    if out is not None:
        write_new(out, as_json(found))


def _show(found: Watching) -> None:
    if not found.drifts:
        output.print(f"{found.name}: fewer than {found.about.fewest} records so far")
    else:
        table = Table("of", "name", "records", "PSI", "KS", "")
        for drift in found.drifts:
            ks = "-" if drift.ks is None else f"{drift.ks:.2f}"
            said = "ALARM" if drift.alarm else ""
            row = (drift.kind, drift.name, str(drift.records), f"{drift.psi:.2f}", ks, said)
            table.add_row(*map(Text, row))
        output.print(f"{found.name}: newest records, compared with training")
        output.print(table)
        alarms = sum(drift.alarm for drift in found.drifts)
        output.print(f"{alarms} alarm{'s' if alarms != 1 else ''}")
    if found.missed:
        messages.print(f"{found.missed} records came faster than they could be counted")
    if found.about.unwatched:
        messages.print(f"Nothing to compare with: {', '.join(found.about.unwatched)}")
    if found.figures is not None:
        _show_figures(found.figures, found.about)


def _show_figures(found: Figures, about: About) -> None:
    if not found.records:
        output.print(f"Labels: fewer than {about.fewest} of them have an answer that was kept")
        return
    table = Table("metric", "now", "when judged")
    for name, value in found.metrics.items():
        table.add_row(*map(Text, (name, f"{value:.2f}", _number(about.judged.get(name)))))
    output.print(f"Labels of {found.records} records")
    output.print(table)


def _number(value: Any) -> str:  # noqa: ANN401 - a number, or nothing
    return "-" if value is None else f"{value:.4f}"
