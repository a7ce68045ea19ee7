"""`fedward hospital start|status|watch|stop`: the daemon, and what it says of itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedward.cli.console import output

if TYPE_CHECKING:
    from fedward.client.control_pb2 import StatusReply

File = Annotated[Path, typer.Option("--hospital", help="The hospital's file.", show_default=True)]
HERE = Path("hospital.toml")
_Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]


def start(
    *,
    hospital: File = HERE,
    json_log: Annotated[
        bool, typer.Option("--json-log", help="Log lines as JSON, for programs.")
    ] = False,
) -> None:
    """Run the daemon in the foreground until SIGTERM, Ctrl-C or `fedward hospital stop`.

    It opens no port to the outside; it asks the aggregator for work, and takes part only in
    studies that were approved here.
    """
    from fedward.client import log_lines
    from fedward.client.service import serve
    from fedward.study.freed_memory import keep_freed_memory

    keep_freed_memory()
    if json_log:
        os.environ[log_lines.JSON_VARIABLE] = "1"  # the worker, a child, writes JSON too
    log_lines.configure_log()
    serve(hospital, log=log_lines.write_happening)


def status(*, hospital: File = HERE, as_json: _Json = False) -> None:
    """Show how the daemon stands; exit code 1 if none runs."""
    from fedward.client.control import ControlClient

    with ControlClient(hospital) as client:
        reply = client.status()
        healthy = client.healthy()
    if as_json:
        values = {field.name: getattr(reply, field.name) for field in reply.DESCRIPTOR.fields}
        typer.echo(json.dumps({**values, "healthy": healthy}, indent=2))
        return
    for line in _lines(reply, healthy=healthy):
        output.print(line)


def watch(*, hospital: File = HERE, as_json: _Json = False) -> None:
    """Show what happens at the daemon, as it happens, until it ends or Ctrl-C."""
    from fedward.client.control import ControlClient

    with ControlClient(hospital) as client:
        for event in client.watch():
            if as_json:
                values = {"at": event.at, "event": event.kind, "text": event.text}
                typer.echo(json.dumps({**values, **event.values}))
            else:
                output.print(f"{event.at}  {event.text}")


def page(
    *,
    hospital: File = HERE,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="On this machine alone; 0: any that is free.")
    ] = 0,
) -> None:
    """Show the hospital's page on this machine: studies to approve, budget, audit log, GPU."""
    from fedward.cli.page import show
    from fedward.client.hospital import read_hospital
    from fedward.client.page.application import application

    path = hospital.resolve()
    state = path.parent / read_hospital(hospital).state
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    show(application(path), state, port=port, name="hospital")


def stop(*, hospital: File = HERE) -> None:
    """End the daemon; a message that it is at may take up to a minute more."""
    from fedward.client.control import ControlClient

    with ControlClient(hospital) as client:
        events = client.watch()
        client.stop()
        for _ in events:  # until the daemon hangs up
            pass
    output.print("stopped")


def _lines(reply: StatusReply, *, healthy: bool) -> list[str]:
    works = "" if healthy else ": it cannot work"
    lines = [
        f"{reply.hospital}: {reply.state} since {reply.since}{works}",
        f"daemon      process {reply.process}, fedward {reply.version}, since {reply.started}",
    ]
    if reply.address:
        lines.append(f"aggregator  {reply.address}")
    if reply.reason:
        lines.append(f"because     {reply.reason}")
    if reply.kind:
        number = f", round {reply.round}" if reply.round else ""
        run = f" of run {reply.run}" if reply.run else ""
        lines.append(f"last asked  {reply.kind}{number}{run}, study {reply.study[:12]}")
    lines.append(
        f"messages    {reply.answered} answered, {reply.refused} refused, {reply.dropped} given up"
    )
    lines.append(f"bytes       {reply.bytes_in:,} in, {reply.bytes_out:,} out")
    if reply.worker_restarts:
        lines.append(f"worker      restarted {reply.worker_restarts} times; see the daemon's log")
    return lines
