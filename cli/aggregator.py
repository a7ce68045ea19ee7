"""`fedward aggregator`: what the consortium's operator does on the machine that adds up."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli import aggregator_models
from fedward.cli.console import messages, output
from fedward.cli.fingerprint import confirm
from fedward.cli.given_file import faults_of
from fedward.study.errors import OptionError, printable

if TYPE_CHECKING:
    from fedward.server.aggregator import Aggregator
    from fedward.server.run_registry import RunRegistry

app = typer.Typer(no_args_is_help=True, help="The service that hospitals connect to.")

_File = Annotated[
    Path, typer.Option("--aggregator", help="The aggregator's file.", show_default=True)
]
_Run = Annotated[str, typer.Argument(metavar="RUN", help="As `fedward aggregator runs` lists it.")]
_HERE = Path("aggregator.toml")


@app.command()
def init(
    *,
    name: Annotated[str, typer.Option(help="What people call this aggregator.")],
    host: Annotated[str, typer.Option(help="Name or IP address under which hospitals reach it.")],
    port: Annotated[int, typer.Option(help="The one public port.")] = 9443,
    aggregator: _File = _HERE,
) -> None:
    """Make the aggregator's file, its TLS key and a request for its certificate."""
    from fedward.privacy.public_file import write_public
    from fedward.server.aggregator import found_aggregator

    found = found_aggregator(aggregator, name=name, host=host, port=port)
    request = aggregator.with_name("request.csr")
    write_public(request, found.request())
    output.print(f"written: {aggregator}, {found.key_path}, {request}")
    output.print(
        f"send {request} to the coordinator, and compare by telephone: {found.fingerprint}"
    )


@app.command()
def enroll(
    *,
    answer: Annotated[Path, typer.Option(help="What the coordinator sent back.")],
    coordinator: Annotated[
        str | None,
        typer.Option(
            help="The coordinator's fingerprint, as read out by telephone; without it a person is "
            "asked at the terminal."
        ),
    ] = None,
    aggregator: _File = _HERE,
) -> None:
    """Install the coordinator's answer: certificate, authority, roster and the coordinator's key.

    The same command renews a certificate.
    """
    from fedward.privacy.enrolment import LARGEST_ANSWER, claimed_coordinator, fingerprint
    from fedward.privacy.public_file import read_public

    service = _aggregator(aggregator)
    document = read_public(answer, what="answer", largest=LARGEST_ANSWER)
    with faults_of(answer):
        shown = fingerprint(claimed_coordinator(document))
        confirm(shown, coordinator, whose="the coordinator", option="--coordinator")
        service.enroll(document, shown)
    output.print(f"enrolled; roster {service.roster().version}; next: fedward aggregator start")


@app.command()
def roster(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Signed by the coordinator.")],
    *,
    aggregator: _File = _HERE,
) -> None:
    """Install a newer roster, or the same again; a running aggregator follows it at once."""
    from fedward.privacy.public_file import read_public
    from fedward.privacy.roster import LARGEST_ROSTER

    document = read_public(file, what="roster", largest=LARGEST_ROSTER)
    service = _aggregator(aggregator)
    with faults_of(file):
        had = service.roster() if service.roster_path.exists() else None
        new = service.install_roster(document)
    already = " (it was installed already)" if new == had else ""
    output.print(f"roster {new.version}: {len(new.members)} members{already}")


@app.command()
def start(*, aggregator: _File = _HERE) -> None:
    """Run the service until it is told to end (Ctrl-C, SIGTERM); runs go on at the next start."""
    from fedward.cli.quiet import quiet_libraries
    from fedward.server.supervisor import Supervisor
    from fedward.study.freed_memory import keep_freed_memory

    keep_freed_memory()
    quiet_libraries()
    service = Supervisor(_aggregator(aggregator), stream=sys.stderr)
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    service.run(stop)


@app.command()
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    aggregator: _File = _HERE,
) -> None:
    """Show whether the service runs, and which hospitals are there; exit code 1 if it does not."""
    from fedward.server.page.overview import status_of
    from fedward.server.state_lock import is_running

    state = _aggregator(aggregator).state
    found = status_of(state)
    found["running"] = running = is_running(state)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        alive = running and found.get("superlink", {}).get("alive", False)
        output.print(f"aggregator: {'runs' if running else 'does not run'}")
        output.print(f"superlink: {'answers' if alive else 'does not answer'}")
        for hospital, online in sorted(found.get("hospitals", {}).items()):
            output.print(f"{hospital}: {'online' if online and alive else 'away'}")
    if not running:
        raise typer.Exit(1)


@app.command()
def page(
    *,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On this machine alone; 0: any that is free.")
    ] = 0,
    aggregator: _File = _HERE,
) -> None:
    """Show the aggregator's page on this machine: hospitals, runs, the live round, curves, files.

    Where the service shows it already ([page] port in aggregator.toml), only its address is told.
    """
    from fedward.cli.page import show, told_address
    from fedward.server.page.application import application
    from fedward.server.state_lock import is_running

    service = _aggregator(aggregator)
    if service.file.page is not None and is_running(service.state):
        told_address(service.state)
        return
    show(application(service), service.state, port=port, name="hub")


@app.command()
def submit(
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="By the coordinator.")],
    *,
    seed: Annotated[int, typer.Option(help="Of the first model and of who is invited.")] = 0,
    name: Annotated[str, typer.Option(help="Of the run; one is made up if none.")] = "",
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics",
            help="Only the study's table of statistics; nothing is trained. See: fedward "
            "aggregator statistics.",
        ),
    ] = False,
    aggregator: _File = _HERE,
) -> None:
    """Start a run of a study that the coordinator signed, now or when the service next runs."""
    from fedward.privacy.public_file import read_public
    from fedward.privacy.signed_study import LARGEST_STUDY, read_signed_study

    service = _aggregator(aggregator)
    document = read_public(study, what="signed study", largest=LARGEST_STUDY)
    with faults_of(study):
        checked = read_signed_study(document, service.coordinator)
    if statistics and getattr(checked.data, "statistics", None) is None:
        raise OptionError(
            "the study asks for no statistics",
            todo="write [data.statistics] into it, and have it signed anew",
            where=str(study),
        )
    run = _runs(service).create(
        checked,
        document,
        seed=seed,
        roster=service.roster().version,
        name=name,
        wants="statistics" if statistics else "model",
    )
    output.print(f"submitted: {run.folder.name}")


@app.command()
def runs(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    aggregator: _File = _HERE,
) -> None:
    """List the runs, the oldest first."""
    found = _runs(_aggregator(aggregator)).list(lambda error: messages.print(Text(error.line())))
    if as_json:
        typer.echo(json.dumps([record.model_dump() for record in found], indent=2))
        return
    table = Table()
    table.add_column("run", no_wrap=True)  # it is copied into the next command
    for column in ("study", "created", "state", "why"):
        table.add_column(column, overflow="fold")
    for record in found:
        created = record.created[:16].replace("T", " ")
        cells = (record.name, record.title, created, record.state, record.reason)
        table.add_row(*map(Text, cells))
    output.print(table)


@app.command()
def statistics(run: _Run, *, aggregator: _File = _HERE) -> None:
    """Show the table of a run that was submitted with --statistics."""
    from pydantic import ValidationError

    from fedward.cli.stats import show
    from fedward.privacy.small_cells import Statistics
    from fedward.server.run_registry import STATISTICS

    found = _runs(_aggregator(aggregator)).get(run)
    path = found.folder / STATISTICS
    try:
        table = Statistics.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise OptionError(
            f"there is no table of the run ({found.record.state})",
            todo="submit the study with --statistics, and wait until the run is finished",
            where=run,
        ) from None
    except (OSError, ValidationError):
        raise OptionError("cannot be read", todo="submit it anew", where=str(path)) from None
    show(table, found.record.title)


@app.command()
def evaluate(
    run: _Run,
    *,
    again: Annotated[
        bool,
        typer.Option("--again", help="Have the hospitals judge the run's model again, as a run."),
    ] = False,
    name: Annotated[str, typer.Option(help="Of that run; one is made up if none.")] = "",
    aggregator: _File = _HERE,
) -> None:
    """Show a run's figures with subgroups and intervals, where its study asks for them.

    With --again the hospitals that are connected judge the same model once more, in a run of its
    own, whose table is shown when it is finished.
    """
    from fedward.cli.evaluate import read_evaluated, show

    service = _aggregator(aggregator)
    runs = _runs(service)
    found = runs.get(run)
    if not again:
        show(read_evaluated(found.folder, found.record.state), found.record.title)
        return
    study = found.study
    refused = ""
    if found.record.wants != "model" or found.record.state != "finished":
        refused = f"has no finished model ({found.record.state})"
    elif study.evaluation is None:
        refused = "is of a study without a table [evaluation]"
    elif study.personal:
        refused = "is of a study whose hospitals keep parts of the model for themselves"
    if refused:
        raise OptionError(refused, todo="see docs/evaluation.md", where=run)
    made = runs.create(
        study,
        found.document,
        seed=found.record.seed,
        roster=service.roster().version,
        name=name,
        wants="evaluation",
        of=run,
    )
    output.print(f"submitted: {made.folder.name}")


@app.command()
def logs(run: _Run, *, aggregator: _File = _HERE) -> None:
    """Print what happened in a run: a JSON line for each event, then what its process said."""
    found = _runs(_aggregator(aggregator)).get(run)
    for path in (found.folder / "events.jsonl", found.log):
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:  # hospitals wrote some of it
                    typer.echo(printable(line.rstrip("\n")))


@app.command()
def stop(run: _Run, *, aggregator: _File = _HERE) -> None:
    """Stop a run after what it is doing; `resume` takes it up again."""
    found = _runs(_aggregator(aggregator)).get(run)
    if found.record.state in {"finished", "failed", "stopped"}:
        raise OptionError(f"the run has ended ({found.record.state})", where=run)
    found.ask_to_stop()
    if found.record.state == "paused":
        found.mark("stopped", "as asked")
    output.print(f"{run} stops")


@app.command()
def resume(run: _Run, *, aggregator: _File = _HERE) -> None:
    """Take up a run that was paused, stopped or failed, at the round that it was in."""
    found = _runs(_aggregator(aggregator)).get(run)
    if found.record.state == "finished":
        raise OptionError("the run is finished", todo="submit the study anew", where=run)
    found.clear_stop()
    if found.record.state in {"paused", "stopped", "failed"}:
        found.mark("submitted", "resumed")
    output.print(f"{run} goes on")


app.command()(aggregator_models.models)
app.command()(aggregator_models.approve)
app.command()(aggregator_models.retire)


def _aggregator(path: Path) -> Aggregator:
    from fedward.server.aggregator import Aggregator

    return Aggregator(path)


def _runs(aggregator: Aggregator) -> RunRegistry:
    from fedward.server.run_registry import RunRegistry

    return RunRegistry(aggregator.state / "runs")
