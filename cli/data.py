"""`fedward data`: a hospital's files, before any study reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import Progress
from rich.text import Text

from fedward.cli import hospital_data
from fedward.cli.console import messages, output
from fedward.cli.hospital_daemon import HERE

app = typer.Typer(no_args_is_help=True, help="A hospital's files: are they good, whose are they.")
_SHOWN = 20


@app.command()
def check(
    hospital: Annotated[Path, typer.Argument(help="The hospital's file.")] = HERE,
    *,
    study: Annotated[
        str | None,
        typer.Option(
            help="One study: its file, or 8 or more first digits of its digest; every study that "
            "was offered or approved if left out."
        ),
    ] = None,
    all_lines: Annotated[bool, typer.Option("--all", help="Show all problems.")] = False,
) -> None:
    """Open the data for a study without training, and count: as fedward hospital data check."""
    hospital_data.check(study=study, hospital=hospital, all_lines=all_lines)


@app.command()
def deidentify(
    source: Annotated[Path, typer.Argument(help="Folder of DICOM files; stays as it is.")],
    target: Annotated[Path, typer.Argument(help="New folder, apart from the source.")],
    *,
    key: Annotated[
        Path,
        typer.Option(
            help="The secret that pseudonyms follow from; made if it is not there. It stays in the "
            "hospital: whoever has it can try out names.",
            show_default=True,
        ),
    ] = Path("deidentify.key"),
    report: Annotated[
        Path | None,
        typer.Option(help="New CSV file of what was done; TARGET.report.csv if left out."),
    ] = None,
    dates: Annotated[
        Literal["removed", "shifted"],
        typer.Option(help="Shifted: by a number of days that is each patient's own."),
    ] = "removed",
) -> None:
    """Write DICOM files anew without names, dates, texts and private tags (PS3.15, basic profile).

    Words that are drawn into the pixels stay: files that have such, or may, are counted and must be
    looked at. The exit code is 2 if a file could not be read; it is named, and is not in TARGET.
    """
    from fedward.client.data.deidentify import deidentify as write_anew

    report = report or target.with_name(f"{target.name}.report.csv")
    with _bar() as progress:
        done = write_anew(source, target, key=key, report=report, dates=dates, progress=progress)
    output.print(Text(f"written: {len(done.files)} files in {target}; what was done: {report}"))
    if done.others:
        output.print(f"not copied: {done.others} files that are no DICOM files")
    if done.burnt_in:
        _warn(f"{len(done.burnt_in)} files may have names drawn into their pixels", done.burnt_in)
    if done.unnamed:
        _warn(f"{len(done.unnamed)} files named no patient", done.unnamed)
    for error in done.left_out:
        messages.print(Text.assemble(("left out:", "bold red"), " ", error.line()))
    if done.left_out:
        raise typer.Exit(2)


@contextmanager
def _bar() -> Iterator[Callable[[int, int], object]]:
    """Told of how many of how many files are done; seen in a terminal only."""
    with Progress(console=messages, transient=True, disable=not messages.is_terminal) as bar:
        task = bar.add_task("files")
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _warn(what: str, names: list[str]) -> None:
    messages.print(Text.assemble(("look at:", "bold yellow"), f" {what}:"))
    for name in names[:_SHOWN]:
        messages.print(Text(f"  {name}"))
    if len(names) > _SHOWN:
        messages.print(f"  and {len(names) - _SHOWN} others")
