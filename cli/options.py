"""Arguments that several commands take, and what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StudyFile = Annotated[Path, typer.Argument(help="The study file.", show_default=False)]
DataSet = Annotated[
    Path | None,
    typer.Option(help="The data set: a file, or a folder with one folder or file a hospital."),
]
HowMany = Annotated[
    int | None, typer.Option(min=1, max=100_000, help="Hospitals, instead of the study's.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is drawn.")]
