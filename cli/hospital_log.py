"""`fedward hospital log`: prove the audit log, and compare it with another hospital's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.console import output
from fedward.cli.hospital_daemon import HERE, File
from fedward.study.errors import DataError, FedwardError, OptionError

if TYPE_CHECKING:
    from fedward.client.hospital import HospitalFile
    from fedward.privacy.audit_log import Line

app = typer.Typer(no_args_is_help=True, help="The audit log: what came, and what left.")


@app.command()
def verify(
    *,
    hospital: File = HERE,
    against: Annotated[
        Path | None,
        typer.Option(help="Another hospital's log of the same run, or an earlier copy of this."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="Public key of that other hospital, if the roster no longer has it."),
    ] = None,
) -> None:
    """Check every line and signature; exit code 1 names the first line that does not fit.

    With --against, also find out whether the aggregator told both hospitals the same.
    """
    from fedward.client.auditing import LOG
    from fedward.client.hospital import read_hospital
    from fedward.client.membership import consortium_of
    from fedward.privacy.audit_log import verify as verify_log
    from fedward.privacy.identity import Identity

    found = read_hospital(hospital)
    path = hospital.parent / found.state / LOG
    public = Identity.load(hospital.parent / consortium_of(found).identity).public
    lines = verify_log(path, public, own=True)
    output.print(f"good: {len(lines)} lines, each signed and in its place")
    if lines:
        output.print(f"last: line {lines[-1].number}, {lines[-1].entry.at}, {lines[-1].hash}")
    if against is not None:
        _compare(found, hospital.parent, lines, against, own=public, key=key)


def _compare(
    hospital: HospitalFile,
    folder: Path,
    ours: list[Line],
    against: Path,
    *,
    own: bytes,
    key: str | None,
) -> None:
    from fedward.privacy.audit_log import refuse_older
    from fedward.privacy.audit_log import verify as verify_log
    from fedward.privacy.audit_views import compare

    public = _public(hospital, folder, against, own=own, key=key)
    theirs = verify_log(against, public)
    if public == own:
        refuse_older(ours, theirs)
        output.print(f"good: {against} is the beginning of this log, {len(theirs)} lines")
        return
    found = compare(ours, theirs)
    name = theirs[0].entry.hospital if theirs else str(against)
    output.print(f"{name}: {len(theirs)} lines, each signed and in its place")
    output.print(
        f"both contributed to {len(found.both)} exchanges; only {hospital.name} to "
        f"{len(found.ours)}, only {name} to {len(found.theirs)}"
    )
    for sentence in found.contradictions:
        output.print(f"contradiction: {sentence}")
    if found.contradictions:
        raise FedwardError(
            f"{len(found.contradictions)} contradictions: the hospitals were not told the same",
            todo="keep both logs, and ask whoever runs the aggregator",
        )
    output.print("no contradiction: what both were told agrees")


def _public(
    hospital: HospitalFile, folder: Path, against: Path, *, own: bytes, key: str | None
) -> bytes:
    """The key that the other log must be signed with: never one that the log itself names."""
    from fedward.client.membership import consortium_of
    from fedward.privacy.audit_log import named_hospital
    from fedward.privacy.protocol_errors import ProtocolError
    from fedward.privacy.roster import read_roster

    if key is not None:
        try:
            public = bytes.fromhex(key)
        except ValueError:
            public = b""
        if len(public) != len(own):
            raise OptionError(f"no public key: {key!r:.80}", todo="give 64 hexadecimal digits")
        return public
    name = named_hospital(against)
    if name == hospital.name:
        return own
    table = consortium_of(hospital)
    path = folder / table.roster
    try:
        roster = read_roster(path.read_bytes(), bytes.fromhex(table.coordinator))
    except (OSError, ProtocolError) as error:
        raise DataError(
            f"the roster cannot be read ({error})", todo="enrol, or give --key", where=str(path)
        ) from None
    if name not in roster.members:
        raise OptionError(
            f"it says that it is of {name!r}, who is not in the roster",
            todo="give that hospital's public key with --key",
            where=str(against),
        )
    return roster.members[name]
