"""`fedward aggregator models`, `approve` and `retire`: which models may be used."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import messages, output
from fedward.study.errors import OptionError

if TYPE_CHECKING:
    from fedward.privacy.model_log import Change
    from fedward.server.model_registry import ModelRegistry, Registered

_File = Annotated[
    Path, typer.Option("--aggregator", help="The aggregator's file.", show_default=True)
]
_Run = Annotated[str, typer.Argument(metavar="RUN", help="As `fedward aggregator runs` lists it.")]
_By = Annotated[str, typer.Option(help="Your name: it stays in the log.")]
_Reason = Annotated[str, typer.Option(help="Why: it stays in the log.")]
_HERE = Path("aggregator.toml")


def models(
    run: Annotated[
        str | None, typer.Argument(metavar="[RUN]", help="Only this one, and all that was said.")
    ] = None,
    *,
    knows: Annotated[
        str | None,
        typer.Option(help="A hash that this command printed earlier: it must still be in the log."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For other programs.")] = False,
    aggregator: _File = _HERE,
) -> None:
    """List the models of finished runs: candidate, approved or retired, who said so, and why.

    The whole log is checked first, and nothing is shown of one that does not fit. Exit code 1 also
    if a model's file is not the one that its run finished with.
    """
    registry = _registry(aggregator)
    changes = registry.changes()
    if knows is not None and knows not in {change.hash for change in changes}:
        raise OptionError(
            "no row of the log has that hash: the log was written anew, or the hash is another's",
            todo="find out who did it; compare with a backup",
        )
    if run is None:
        found = registry.models()
        _list(found, as_json=as_json)
        for each in found:
            if not each.fits:
                messages.print(
                    Text(f"the model's file of {each.now.run} is missing or was changed")
                )
    else:
        _history(registry.history(run), as_json=as_json)
        found = [each for each in registry.models() if each.now.run == run]
    if changes and not as_json:
        output.print(f"the log has {len(changes)} rows; the last is {changes[-1].hash}")
    if not all(each.fits for each in found):
        raise typer.Exit(1)


def approve(run: _Run, *, by: _By, reason: _Reason, aggregator: _File = _HERE) -> None:
    """Allow the use of a finished run's model; it must still be the one that the run wrote."""
    _tell(_registry(aggregator).approve(run, by=by, reason=reason))


def retire(run: _Run, *, by: _By, reason: _Reason, aggregator: _File = _HERE) -> None:
    """End the use of a run's model, for good."""
    _tell(_registry(aggregator).retire(run, by=by, reason=reason))


def _list(found: list[Registered], *, as_json: bool) -> None:
    if as_json:
        values = [{**asdict(each.now), "fits": each.fits} for each in found]
        typer.echo(json.dumps(values, indent=2))
        return
    table = Table()
    table.add_column("run", no_wrap=True)
    for column in ("stage", "by", "since", "why", "model"):
        table.add_column(column, overflow="fold")
    for each in found:
        now = each.now
        model = now.model[:12] if each.fits else "CHANGED"
        cells = (now.run, now.stage, now.by or "-", now.at[:16].replace("T", " "), now.reason)
        table.add_row(*map(Text, (*cells, model)))
    output.print(table)


def _history(changes: list[Change], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in changes], indent=2))
        return
    output.print(Text(f"model {changes[-1].model}, of study {changes[-1].study}"))
    for change in changes:
        output.print(Text(change.sentence()))


def _tell(change: Change) -> None:
    output.print(Text(f"{change.run} is {change.stage} now, model {change.model[:12]}"))
    output.print(Text(f"row {change.hash}"))


def _registry(path: Path) -> ModelRegistry:
    from fedward.server.aggregator import Aggregator
    from fedward.server.model_registry import ModelRegistry

    return ModelRegistry(Aggregator(path).state / "runs")
