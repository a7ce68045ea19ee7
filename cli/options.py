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
Models = Annotated[
    Path | None,
    typer.Option(help="Folder of pretrained models, for studies that name one by its digest."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything that is drawn.")]
OwnModel = Annotated[
    Path | None,
    typer.Option("--model", help="A hospital's personal-model.safetensors, instead of the run's."),
]
OwnThreshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0,
        max=1,
        help="With --model: probability from which a finding is called, where it was chosen on "
        "validation.",
    ),
]
