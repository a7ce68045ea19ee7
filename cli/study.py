"""`fedward study`: read, check and show studies."""

from __future__ import annotations

import tomli_w
import typer

from fedward.cli.console import output
from fedward.cli.options import StudyFile
from fedward.cli.study_file import whole_study

app = typer.Typer(no_args_is_help=True, help="Check a study file, show it in full, or its digest.")


@app.command()
def check(study: StudyFile) -> None:
    """Read a study and say what is wrong with it, or how large its model is."""
    contract, size = whole_study(study)
    output.print(f"{study}: good. Model {contract.model.name}: {size} parameters.")
    output.print(contract.sums_sentence())


@app.command()
def digest(study: StudyFile) -> None:
    """Print the digest by which hospitals approve a study (SHA-256 of its canonical form)."""
    contract, _ = whole_study(study)
    output.print(contract.digest())


@app.command()
def show(study: StudyFile) -> None:
    """Print a study with every default filled in."""
    contract, _ = whole_study(study)
    output.print(tomli_w.dumps(contract.model_dump(mode="json", exclude_none=True)))
