"""The command `fedward`: puts the groups together and turns errors into a line and an exit code.

Commands import what they need when they run, so that help and a faulty study do not wait for torch.
"""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import version
from typing import Annotated

import click
import typer
from click.exceptions import NoArgsIsHelpError
from rich.text import Text

from fedward.cli import (
    aggregator,
    consortium,
    data,
    doctor,
    encode,
    evaluate,
    explain,
    export,
    hospital,
    models,
    monitor,
    privacy,
    reference,
    report,
    serve,
    simulate,
    split,
    stats,
    study,
    synthesize,
)
from fedward.cli.console import messages, output
from fedward.study.errors import FedwardError

app = typer.Typer(
    name="fedward",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Train one model from the patients of many hospitals, without moving a record.\n\n"
        "A *study* (a TOML file) says what is learnt, from what, how, and what protects the "
        "patients. `simulate` runs a whole study on this machine, with pretended hospitals; "
        "`split` only makes the hospitals; `study check` reads a study and says what is wrong.\n\n"
        "Start with `fedward simulate examples/breast-cancer.toml`."
    ),
    epilog=(
        "Exit codes: 0 done; 1 a run failed; 2 something given cannot be used. "
        "Errors are one line; `fedward --debug COMMAND` adds where in the code they arose."
    ),
)
app.command(name="simulate")(simulate.simulate)
app.command(name="split")(split.split)
app.command(name="stats")(stats.stats)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="report")(report.report)
app.command(name="synthesize")(synthesize.synthesize)
app.command(name="serve")(serve.serve)
app.command(name="reference")(reference.reference)
app.command(name="monitor")(monitor.monitor)
app.command(name="export")(export.export)
app.command(name="explain")(explain.explain)
app.command(name="encode")(encode.encode)
app.command(name="models")(models.models)
app.command(name="doctor")(doctor.doctor)
app.add_typer(study.app, name="study")
app.add_typer(privacy.app, name="privacy")
app.add_typer(hospital.app, name="hospital")
app.add_typer(data.app, name="data")
app.add_typer(consortium.app, name="consortium")
app.add_typer(aggregator.app, name="aggregator")


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print(f"fedward {version('fedward')}")
        raise typer.Exit


@app.callback()
def configure(
    context: typer.Context,
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show where in the code an error arose.")
    ] = False,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and stop.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""
    context.obj = debug


def main() -> None:
    """Run the command line."""
    try:
        code = app(standalone_mode=False)
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        _fail(f"{error.format_message().rstrip('.')}; see {where or 'fedward'} --help")
        sys.exit(error.exit_code)
    except FedwardError as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        _fail(error.line())
        sys.exit(error.exit_code)
    except Exception as error:  # an error of ours: one line too, and where to look
        if "--debug" in sys.argv:
            traceback.print_exc()
        _fail(f"{type(error).__name__}: {error}; run again with fedward --debug and report it")
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        _fail("stopped")
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str) -> None:
    messages.print(Text.assemble(("error:", "bold red"), " ", " ".join(line.split())))
