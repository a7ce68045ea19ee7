"""`fedward report`: a finished run on one page, and the model's card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import messages, output


def report(
    context: typer.Context,
    *,
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the two files, instead of the run's own.")
    ] = None,
) -> None:
    """Write report.html and MODEL_CARD.md of a finished run.

    RUN is what `fedward simulate` left, or a run's folder in an aggregator's registry. The page
    needs nothing beside it: pictures are inside, nothing is loaded. What the run's folder does not
    tell is left out, and the page says so.
    """
    from fedward.cli.quiet import quiet_libraries
    from fedward.clinic.report import write_report

    if not context.obj:
        quiet_libraries()
    written = write_report(run, run if out is None else out)
    for line in written.missing:
        messages.print(line)
    output.print(f"Report: {written.report}   card: {written.card}")
