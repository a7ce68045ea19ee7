"""`fedward study`: read, check and show studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from fedward.cli.console import output
from fedward.cli.options import Models, StudyFile
from fedward.cli.study_file import whole_study

app = typer.Typer(no_args_is_help=True, help="Check a study file, show it in full, or its digest.")


@app.command()
def check(study: StudyFile, *, models: Models = None) -> None:
    """Read a study and say what is wrong with it, or how large its model is."""
    contract, size = whole_study(study, models)
    told = "its size is the folder's, see --models" if size is None else f"{size} parameters"
    output.print(f"{study}: good. Model {contract.model.name}: {told}.")
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


@app.command()
def pretrained(
    folder: Annotated[
        Path, typer.Argument(help="A model's folder, as Hugging Face has it.", show_default=False)
    ],
) -> None:
    """Print the digest by which a study names a pretrained model.

    It is SHA-256 over config.json, model.safetensors and tokenizer.json. Each hospital and the
    aggregator have the folder themselves: no model is ever fetched.
    """
    from fedward.models.pretrained import digest_of

    output.print(f'pretrained = "{digest_of(folder)}"', markup=False, soft_wrap=True)
