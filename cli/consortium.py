"""`fedward consortium`: what the coordinator does on the machine that holds its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import output
from fedward.cli.fingerprint import confirm
from fedward.cli.given_file import faults_of
from fedward.cli.options import StudyFile

app = typer.Typer(
    no_args_is_help=True,
    help="What a consortium's coordinator does: members, studies, the aggregator's certificate.",
)

_Folder = Annotated[
    Path, typer.Option("--consortium", help="The coordinator's folder.", show_default=True)
]
_HERE = Path("consortium")
_Fingerprint = Annotated[
    str | None,
    typer.Option(help="As read out by telephone; without it a person is asked at the terminal."),
]
_Out = Annotated[
    Path | None, typer.Option(help="File to write; a name in this folder if none is given.")
]


@app.command()
def init(
    *,
    address: Annotated[
        str, typer.Option(help="Where hospitals will reach the aggregator, host:port.")
    ],
    consortium: _Folder = _HERE,
) -> None:
    """Found a consortium: make the coordinator's key, certificate authority and empty roster."""
    from fedward.privacy.consortium import Consortium
    from fedward.privacy.enrolment import fingerprint

    founded = Consortium.found(consortium, address)
    output.print(f"founded: {consortium}; the aggregator will be at {founded.address}")
    output.print(f"fingerprint of the coordinator: {fingerprint(founded.coordinator)}")
    output.print("Keep the folder's private keys here, and a backup of the folder offline.")


@app.command()
def admit(
    request: Annotated[
        Path, typer.Argument(help="The hospital's enrolment request.", show_default=False)
    ],
    *,
    fingerprint: _Fingerprint = None,
    out: _Out = None,
    consortium: _Folder = _HERE,
) -> None:
    """Enter a hospital into the roster, once its fingerprint was compared, and write its answer."""
    from fedward.privacy.consortium import Consortium
    from fedward.privacy.enrolment import LARGEST_REQUEST, read_request
    from fedward.privacy.public_file import read_public, write_public

    opened = Consortium(consortium)
    document = read_public(request, what="enrolment request", largest=LARGEST_REQUEST)
    with faults_of(request):
        asked = read_request(document)
        whose = f"the request of {asked.name!r}"
        confirm(asked.fingerprint, fingerprint, whose=whose, option="--fingerprint")
        answer = opened.admit(document)
    out = out or Path(f"{_plain(asked.name)}.answer.json")
    write_public(out, answer)
    output.print(f"member: {asked.name!r}; the roster is version {opened.roster.version}")
    output.print(f"written: {out}, for the hospital; {opened.roster_path}, for the aggregator")


@app.command()
def expel(
    name: Annotated[str, typer.Argument(help="The member's name.", show_default=False)],
    *,
    consortium: _Folder = _HERE,
) -> None:
    """Strike a hospital out of the roster; all other members stay."""
    from fedward.privacy.consortium import Consortium

    opened = Consortium(consortium)
    roster = opened.expel(name)
    output.print(f"expelled: {name!r}; the roster is version {roster.version}")
    output.print(f"It takes effect when the aggregator has it: {opened.roster_path}")


@app.command()
def sign(
    study: StudyFile,
    *,
    out: _Out = None,
    consortium: _Folder = _HERE,
) -> None:
    """Sign a study, so that hospitals see that the coordinator proposes it."""
    from fedward.cli.study_file import whole_study
    from fedward.privacy.consortium import Consortium
    from fedward.privacy.public_file import write_public

    opened = Consortium(consortium)
    contract, _ = whole_study(study)
    out = out or Path(f"{contract.study.name}.signed.json")
    write_public(out, opened.sign(contract))
    output.print(f"signed: study {contract.study.name}, digest {contract.digest()}")
    output.print(contract.sums_sentence())
    output.print(f"written: {out}, for `fedward aggregator submit`")


@app.command()
def certify(
    request: Annotated[
        Path, typer.Argument(help="The aggregator's certificate request.", show_default=False)
    ],
    *,
    fingerprint: _Fingerprint = None,
    out: _Out = None,
    consortium: _Folder = _HERE,
) -> None:
    """Certify an aggregator, once its key's fingerprint was compared, and write its answer."""
    from fedward.privacy.address import split_address
    from fedward.privacy.certificates import LARGEST_PEM, SERVER_DAYS, read_certificate_request
    from fedward.privacy.consortium import Consortium
    from fedward.privacy.enrolment import fingerprint as fingerprint_of
    from fedward.privacy.public_file import read_public, write_public

    opened = Consortium(consortium)
    document = read_public(request, what="certificate request", largest=LARGEST_PEM)
    with faults_of(request):
        asked = read_certificate_request(document)
        whose = f"the aggregator's key, for {', '.join(asked.hosts)}"
        confirm(fingerprint_of(asked.public), fingerprint, whose=whose, option="--fingerprint")
        chain = opened.certify(document)
    host, _ = split_address(opened.address)
    out = out or Path(f"{_plain(host)}.answer.json")
    write_public(out, opened.answer(chain))
    write_public(out.with_suffix(".chain.pem"), chain)
    output.print(f"certified: {', '.join(asked.hosts)}, for {SERVER_DAYS} days")
    output.print(f"written: {out}, for `fedward aggregator enroll`; its chain also as .chain.pem")


@app.command()
def roster(*, consortium: _Folder = _HERE) -> None:
    """Show who is a member, and the fingerprints of their keys."""
    from fedward.privacy.consortium import Consortium
    from fedward.privacy.enrolment import EnrolmentRequest, fingerprint

    opened = Consortium(consortium)
    members = opened.roster
    table = Table(
        title=f"Roster, version {members.version}; members: {len(members.members)}",
        title_justify="left",
    )
    table.add_column("member", overflow="fold")
    table.add_column("fingerprint of its request", no_wrap=True)
    for name, identity in sorted(members.members.items()):
        transport = members.transports.get(name)
        shown = EnrolmentRequest(name, identity, transport).fingerprint if transport else "none"
        table.add_row(Text(name), shown)
    output.print(table)
    output.print(f"fingerprint of the coordinator: {fingerprint(opened.coordinator)}")
    output.print(f"the roster's file, for the aggregator: {opened.roster_path}")


@app.command()
def demo(
    study: Annotated[Path, typer.Argument(help="The study file.")] = Path(
        "examples/breast-cancer.toml"
    ),
    *,
    data: Annotated[Path | None, typer.Option(help="The data set, as for simulate.")] = None,
    seed: Annotated[int, typer.Option(help="Of the data's division and the first model.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for every part's files; new or empty.")] = Path(
        "runs/consortium"
    ),
) -> None:
    """Run a whole consortium on this machine: keys, TLS, a real SuperLink, a process for each part.

    A coordinator, an aggregator, and the study's hospitals, which enrol, are offered the signed
    study, approve it and train it.
    """
    from fedward.cli.study_file import whole_study
    from fedward.simulation.deployment import Deployment
    from fedward.study.errors import FederationError

    contract, _ = whole_study(study)
    founded = Deployment.found(contract, data, out, seed=seed)
    output.print(f"founded and enrolled: {', '.join(founded.hospitals)}")
    with founded as running:
        run = running.submit(contract, seed=seed, name="demo")
        output.print("submitted; waiting until every hospital has been offered the study")
        running.approve(contract)
        output.print("approved at every hospital")
        record = running.wait(run, seconds=3600, say=output.print)
    if record.state != "finished":
        raise FederationError(f"the run is {record.state}: {record.reason}", where=str(run.folder))
    output.print(f"coordinator: {out / 'coordinator'} (keys, roster, requests, answers)")
    output.print(f"aggregator:  {out / 'aggregator'} (log.txt, state/superlink)")
    output.print(f"the run:     {run.folder} (model.safetensors, rounds.csv, events.jsonl)")
    for name, path in founded.hospitals.items():
        output.print(f"hospital {name}: {path.parent} (hospital.toml, state/, log.txt)")


def _plain(name: str) -> str:
    """A file's name for a hospital's: whatever it is called, no other folder is written to."""
    return re.sub(r"[^\w-]+", "-", name).strip("-") or "hospital"
