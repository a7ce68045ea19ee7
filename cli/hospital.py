"""`fedward hospital`: what a hospital's staff ask about their own machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli import hospital_daemon, hospital_data, hospital_log, hospital_studies
from fedward.cli.console import output
from fedward.cli.fingerprint import confirm
from fedward.cli.given_file import faults_of
from fedward.study.errors import BudgetError, DataError, OptionError

app = typer.Typer(no_args_is_help=True, help="What a hospital's staff ask about their machine.")
budget = typer.Typer(help="The privacy budget: spent, left, and whether the ledger is whole.")
app.add_typer(budget, name="budget")
app.add_typer(hospital_log.app, name="log")
app.add_typer(hospital_data.app, name="data")
for command in (
    hospital_daemon.start,
    hospital_daemon.status,
    hospital_daemon.watch,
    hospital_daemon.stop,
    hospital_daemon.page,
    hospital_studies.studies,
    hospital_studies.approve,
    hospital_studies.revoke,
):
    app.command()(command)

_File = Annotated[Path, typer.Option("--hospital", help="The hospital's file.", show_default=True)]
_HERE = Path("hospital.toml")
_REQUEST = Path("enrolment-request.json")


@app.command()
def init(
    *,
    name: Annotated[
        str | None, typer.Option(help="What the hospital is called in the consortium.")
    ] = None,
    hospital: _File = _HERE,
) -> None:
    """Make the hospital's file and its private keys; what is there already stays as it is."""
    from fedward.client.enrolment import prepare, request_enrolment

    for path in prepare(hospital, name):
        output.print(f"made: {path}")
    _, request = request_enrolment(hospital)
    output.print(f"fingerprint of {request.name!r}: {request.fingerprint}")
    output.print(f"Now enter in {hospital} where the records are; then: fedward hospital enroll")


@app.command()
def enroll(
    *,
    answer: Annotated[
        Path | None, typer.Option(help="The coordinator's answer; without it, ask for one.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="The coordinator's fingerprint, as read out by telephone; without it a person is "
            "asked at the terminal."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"The request's file; beside the hospital's, {_REQUEST}, if none."),
    ] = None,
    hospital: _File = _HERE,
) -> None:
    """Join a consortium: first write a request for its coordinator, then take its answer."""
    from fedward.client.enrolment import request_enrolment
    from fedward.privacy.public_file import write_public

    if answer is not None:
        _take(answer, coordinator, hospital)
        return
    document, request = request_enrolment(hospital)
    out = out or hospital.parent / _REQUEST
    write_public(out, document)
    output.print(f"written: {out}; send it to the coordinator, and read out by telephone")
    output.print(f"fingerprint of {request.name!r}: {request.fingerprint}")


@app.command()
def transport(
    *,
    openssh: Annotated[
        Path,
        typer.Option(help="New file for the key in OpenSSH's form.", show_default=False),
    ],
    hospital: _File = _HERE,
) -> None:
    """Write this machine's key for Flower's stock SuperNode, which runs code from the server.

    The daemon (fedward hospital start) needs no such file.
    """
    from fedward.client.hospital import read_hospital
    from fedward.client.membership import consortium_of
    from fedward.privacy.transport import TransportKey

    table = consortium_of(read_hospital(hospital))
    if table.transport is None:
        raise OptionError(
            "this hospital has no transport key", todo="run: fedward hospital enroll --answer FILE"
        )
    TransportKey.load(hospital.parent / table.transport).save_openssh(openssh)
    output.print(f"written: {openssh}; it is the private key itself: delete it after use")


def _take(answer: Path, given: str | None, hospital: Path) -> None:
    from fedward.client.enrolment import accept_answer
    from fedward.privacy.enrolment import LARGEST_ANSWER, claimed_coordinator, fingerprint
    from fedward.privacy.public_file import read_public

    document = read_public(answer, what="answer", largest=LARGEST_ANSWER)
    with faults_of(answer):
        key = claimed_coordinator(document)
        confirm(fingerprint(key), given, whose="the coordinator", option="--coordinator")
        roster = accept_answer(hospital, document, key)
    others = len(roster.members) - 1
    output.print(f"member, with {others} others; the roster is version {roster.version}")
    output.print(f"written: [consortium] in {hospital}")


@budget.callback(invoke_without_command=True)
def show(context: typer.Context, *, hospital: _File = _HERE) -> None:
    """Show what was spent of each data set, by study and in all, and what is left."""
    if context.invoked_subcommand is not None:
        return
    from fedward.client.budget import spent
    from fedward.client.hospital import read_hospital

    table = Table(title="Privacy budget, for each patient", title_justify="left")
    for column in ("data set", "study", "rounds", "epsilon spent", "left", "delta"):
        table.add_column(column, justify="left" if column in {"data set", "study"} else "right")
    for row in spent(read_hospital(hospital), hospital.parent):
        left = "no limit" if row.left is None else f"{row.left:.3f}"
        cells = [row.data, row.study, str(row.rounds), f"{row.epsilon:.3f}"]
        whole = row.study == "all"
        table.add_row(
            *map(Text, [*cells, left if whole else "", f"{row.delta:g}"]),
            style="bold" if whole else "",
        )
    output.print(table)


@budget.command()
def verify(
    *,
    hospital: _File = _HERE,
    against: Annotated[
        Path | None, typer.Option(help="An earlier export: its last charge must still be there.")
    ] = None,
) -> None:
    """Compute the ledger's chain of hashes anew; the exit code is 1 if it is broken."""
    from fedward.client.budget import open_ledger
    from fedward.client.hospital import read_hospital

    entries = open_ledger(read_hospital(hospital), hospital.parent).entries()
    if against is not None:
        last = _last_hash(against)
        if last is not None and last not in {entry.hash for entry in entries}:
            raise BudgetError(
                "charges are missing that an earlier export has: an old ledger was put back",
                todo="restore the newest backup; until then nothing may be spent",
                where=str(against),
            )
    output.print(f"good: {len(entries)} charges, each follows from the one before")


@budget.command()
def export(
    *,
    hospital: _File = _HERE,
    out: Annotated[Path | None, typer.Option(help="File to write; the terminal if none.")] = None,
) -> None:
    """Write every charge and the totals as JSON, to be kept elsewhere."""
    from fedward.client.budget import exported
    from fedward.client.hospital import read_hospital
    from fedward.privacy.public_file import write_public

    text = json.dumps(exported(read_hospital(hospital), hospital.parent), indent=2)
    if out is None:
        typer.echo(text)
        return
    write_public(out, f"{text}\n".encode())
    output.print(f"written: {out}")


def _last_hash(path: Path) -> str | None:
    try:
        charges = json.loads(path.read_text(encoding="utf-8"))["charges"]
        return str(charges[-1]["hash"]) if charges else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"is no export of a ledger ({error})",
            todo="give a file that `fedward hospital budget export` wrote",
            where=str(path),
        ) from None
