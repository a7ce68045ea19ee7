"""`fedward hospital data check`: would a study find here what it asks for?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from fedward.cli.console import messages, output
from fedward.cli.hospital_daemon import HERE, File
from fedward.study.errors import OptionError

if TYPE_CHECKING:
    from fedward.client.hospital import HospitalFile
    from fedward.client.offers import Known

app = typer.Typer(no_args_is_help=True, help="The hospital's records, as a study would find them.")
_SHOWN = 100


@app.callback()
def _group() -> None:
    """Keep `check` a command of its own."""


@app.command()
def check(
    *,
    study: Annotated[
        str | None,
        typer.Option(
            help="One study: its file, or 8 or more first digits of its digest; every study that "
            "was offered or approved if left out."
        ),
    ] = None,
    hospital: File = HERE,
    all_lines: Annotated[
        bool, typer.Option("--all", help=f"Show more than {_SHOWN} problems of a study.")
    ] = False,
) -> None:
    """Open the data for a study without training, and count; exit code 2 if there are problems.

    What it prints is for the hospital's staff alone: it has true numbers of patients. It needs no
    daemon, and charges nothing.
    """
    from fedward.cli.progress import decoding_bar
    from fedward.client.checking import check as check_here
    from fedward.client.hospital import read_hospital

    found = read_hospital(hospital)
    problems = 0
    for known in _chosen(study, found, hospital.parent):
        state = "" if known.approved is None else ", approved here"
        output.print(f"Study {known.study.study.name!r}, digest {known.digest[:16]}{state}")
        with decoding_bar() as progress:
            result = check_here(found, hospital.parent, known.study, progress)
        for word, text in result.facts:
            output.print(f"  {word:<11} {text}")
        shown = result.problems if all_lines else result.problems[:_SHOWN]
        for line in shown:
            messages.print(Text.assemble(("problem:", "bold red"), " ", " ".join(line.split())))
        if hidden := len(result.problems) - len(shown):
            messages.print(f"{hidden} more problems: fedward hospital data check --all")
        if not result.problems:
            output.print("  good        nothing stands against it")
        problems += len(result.problems)
    if problems:
        raise typer.Exit(2)


def _chosen(study: str | None, hospital: HospitalFile, folder: Path) -> list[Known]:
    from fedward.client.offers import Known, find_study, known_studies
    from fedward.models.registry import read_settled

    studies = folder / hospital.studies
    if study is None:
        if known := known_studies(hospital, studies):
            return known
        raise OptionError(
            "no study was offered or approved here", todo="name one with --study FILE"
        )
    if not Path(study).is_file() and not study.endswith(".toml"):
        return [find_study(study, hospital, studies)]
    read = read_settled(Path(study))
    approved = [k for k in known_studies(hospital, studies) if k.digest == read.digest()]
    return approved or [Known(read, read.digest(), None)]
