"""`fedward synthesize`: images from a finished run's generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedward.cli.console import output
from fedward.cli.options import Seed


def synthesize(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)],
    *,
    out: Annotated[Path, typer.Option(help="New folder for the images.", show_default=False)],
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Images.")] = 100,
    seed: Seed = 0,
) -> None:
    """Make synthetic images with the generator that a run of a generation study trained.

    Writes PNG files, `labels.csv` if images are of classes (each as often), and PRIVACY.md and
    privacy.json, which say what protects the patients behind them, and what does not. Pass these
    on with the images.
    """
    from fedward.server.synthesis import synthesize as write

    statement = write(run, out, count=count, seed=seed)
    output.print(statement.words().splitlines()[0])
    output.print(f"{count} images: {out}   what may be said of them: {out}/PRIVACY.md")
