"""`fedward hospital studies|approve|revoke`: what staff decide about studies.

The files in the hospital's folder are the decision, so all of this works without a daemon, and a
daemon that runs notices it at the next message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import tomli_w
import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import output
from fedward.cli.hospital_daemon import HERE, File
from fedward.study.errors import OptionError

if TYPE_CHECKING:
    from fedward.client.hospital import HospitalFile
    from fedward.client.offers import Known

_Digest = Annotated[
    str,
    typer.Argument(
        help="The study's digest, or 8 or more of its first digits.", show_default=False
    ),
]


def studies(
    *,
    digest: Annotated[
        str | None,
        typer.Argument(
            help="Show one study whole: its digest, or 8 or more of its first digits.",
            show_default=False,
        ),
    ] = None,
    canonical: Annotated[
        bool,
        typer.Option("--canonical", help="Its canonical text alone, whose SHA-256 is the digest."),
    ] = False,
    hospital: File = HERE,
) -> None:
    """List the studies that were offered or approved, or show all that one of them says."""
    from fedward.client.hospital import read_hospital
    from fedward.client.offers import find_study, known_studies

    found = read_hospital(hospital)
    folder = hospital.parent / found.studies
    if digest is not None:
        _show(find_study(digest, found, folder), found, canonical=canonical)
        return
    if canonical:
        raise OptionError("whose text?", todo="name the study by its digest", where="--canonical")
    known = known_studies(found, folder)
    if not known:
        output.print("no study was offered or approved here")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("digest", "study", "state"):
        table.add_column(column, no_wrap=column == "digest")
    for one in known:
        state = "offered" if one.approved is None else f"approved by {one.approved.name}"
        table.add_row(*map(Text, [one.digest[:16], one.study.study.name, state]))
    output.print(table)


def approve(
    *,
    digest: _Digest,
    hospital: File = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show what a study asks of this hospital, and approve it."""
    from fedward.client.decisions import approve as approve_study
    from fedward.client.hospital import read_hospital
    from fedward.client.offers import find_study
    from fedward.client.study_words import words_of

    found = read_hospital(hospital)
    folder = hospital.parent / found.studies
    known = find_study(digest, found, folder)
    for line in words_of(known.study, known.digest, found.limits):
        output.print(line)
    if known.approved is not None:
        output.print(f"approved already by {known.approved}")
        return
    if not yes and not _agreed():
        raise typer.Exit(1)
    output.print(f"approved: {approve_study(known.digest, hospital)}")


def revoke(*, digest: _Digest, hospital: File = HERE) -> None:
    """Withdraw an approval: it holds from the next message on; the offer stays."""
    from fedward.client.decisions import revoke as revoke_study

    output.print(f"no longer approved; taken away: {revoke_study(digest, hospital)}")


def _show(known: Known, hospital: HospitalFile, *, canonical: bool) -> None:
    """A study in plain words, and then all of it, each default and setting, as it is approved."""
    from fedward.client.study_words import words_of

    if canonical:
        typer.echo(known.study.canonical(), nl=False)
        return
    for line in words_of(known.study, known.digest, hospital.limits):
        output.print(line)
    output.print("offered" if known.approved is None else f"approved by {known.approved}")
    values = known.study.model_dump(mode="json", exclude_none=True, exclude={"simulation"})
    typer.echo(f"\n{tomli_w.dumps(values)}", nl=False)


def _agreed() -> bool:
    try:
        return typer.confirm("Approve it?")
    except typer.Abort:
        raise OptionError(
            "nobody answered the question whether to approve", todo="answer it, or give --yes"
        ) from None
