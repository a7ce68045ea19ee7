"""`fedward reference`: what a served model is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import messages, output


def reference(
    *,
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    out: Annotated[
        Path,
        typer.Option(
            help="The new file; MODEL.reference.json beside MODEL.onnx is found by itself.",
            show_default=False,
        ),
    ],
    statistics: Annotated[
        Path | None,
        typer.Option(help="The study's table: fedward stats --out, or a registry's file."),
    ] = None,
) -> None:
    """Write what a run's model was trained on, as histograms, for `fedward serve --watch`.

    Scores are those that the final model was judged by; inputs need the study's table of
    statistics. All of it left the hospitals as sums, and cells of few patients are hidden.
    """
    from fedward.clinic.new_file import refuse_place, write_new
    from fedward.clinic.told import read_told
    from fedward.clinic.watching.reference import read_statistics, reference_of

    refuse_place(out)
    told = read_told(run)
    table = None if statistics is None else read_statistics(statistics)
    found = reference_of(told, table)
    write_new(out, found.document())
    if table is None:
        messages.print("Inputs are not watched: no --statistics was given.")
    if hidden := [f"{each.kind} {each.name}" for each in found.histograms if not each.known]:
        messages.print(f"Hidden, for too few patients: {', '.join(hidden)}")
    known = sum(each.known for each in found.histograms)
    output.print(f"Reference of {known} histograms: {out}")
