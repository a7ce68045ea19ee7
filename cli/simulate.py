"""`fedward simulate`: a whole study on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import messages, output
from fedward.cli.options import DataSet, HowMany, Models, Seed, StudyFile
from fedward.cli.study_file import whole_study

if TYPE_CHECKING:
    from fedward.server.events import Event
    from fedward.server.tracking import Tracking
    from fedward.simulation.result import Metrics, Result
    from fedward.simulation.simulate import Options
    from fedward.study.study import Study


def simulate(
    context: typer.Context,
    *,
    study: StudyFile,
    data: DataSet = None,
    hospitals: HowMany = None,
    models: Models = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder; new by default, below runs/.")
    ] = None,
    baselines: Annotated[
        bool,
        typer.Option(
            "--baselines/--no-baselines", help="Train a pooled and local models to compare with."
        ),
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; all cores by default.")
    ] = None,
    drop: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.99, help="Lose each message with this probability, to watch it recover."
        ),
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Where hospitals run: processes here, or Flower's engine on Ray."),
    ] = "processes",
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TRACKER",
            help="Also send settings and figures to tensorboard:FOLDER or mlflow:URI; may be given "
            "several times.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a study on this machine, with pretended hospitals.

    One data set is divided among hospitals as the study's [simulation] says; they train together,
    with the code that real hospitals run. Then the federated model is shown beside one trained on
    all records pooled and one trained at each hospital alone, all judged on the same test records.

    The same seed gives the same result, bit for bit.
    """
    contract, _ = whole_study(study)
    from fedward.cli.progress import watch
    from fedward.cli.quiet import quiet_libraries
    from fedward.simulation import simulate as simulation

    if not context.obj:
        quiet_libraries()
    contract = simulation.with_hospitals(contract, hospitals)
    folder = out or _new_folder(contract.study.name)
    options = simulation.Options(folder, data, seed, baselines, workers, engine, drop, models)
    with watch(contract) as (listener, progress), _tracked(contract, options, track) as tracking:

        def listen(event: Event) -> None:
            listener(event)
            tracking.listen(event)

        result = simulation.simulate(
            contract, options, listener=listen, say=messages.print, progress=progress
        )
        tracking.results(folder)
    _show(result, contract, folder)


def _tracked(study: Study, options: Options, targets: Sequence[str] | None) -> Tracking:
    from fedward.models.registry import settled
    from fedward.server.tracker_targets import auth_of_environment, trackers_of, wants_token
    from fedward.server.tracking import Tracking

    named = targets or ()
    auth = auth_of_environment(os.environ) if any(map(wants_token, named)) else None
    trackers = trackers_of(named, auth=auth)
    return Tracking(
        settled(study) if trackers else study,
        trackers,
        name=options.out.resolve().name,
        seed=options.seed,
        say=lambda line: messages.print(Text(line)),
    )


def _new_folder(name: str) -> Path:
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _show(result: Result, study: Study, folder: Path) -> None:
    from fedward.models.tasks.figures import NAMES, shown

    table = Table(title=f"{result.study.name}: test records of all hospitals", title_justify="left")
    figures = shown(result.metrics.federated.model_dump())
    names = [NAMES[figure] for figure in figures]
    for column in ("model", "trained on", *names, "epsilon"):
        table.add_column(column, justify="left" if column in {"model", "trained on"} else "right")
    records = {name: counts.train for name, counts in result.hospitals.items()}
    total = sum(records.values())
    spent = [entry.epsilon for entry in result.privacy.values() if entry.epsilon is not None]
    federated = result.metrics.federated
    _row(table, "federated", total, federated, max(spent, default=None), figures, bold=True)
    epsilon = result.epsilon_baselines
    if result.metrics.personal is not None:
        _row(table, "personal", total, result.metrics.personal, epsilon, figures)
    if result.metrics.pooled is not None:
        _row(table, "pooled", total, result.metrics.pooled, epsilon, figures)
    for name, metrics in list(result.metrics.local.items())[:20]:
        _row(table, f"only {name}", records[name], metrics, epsilon, figures)
    output.print(table)
    if len(result.metrics.local) > 20:
        output.print(f"(and {len(result.metrics.local) - 20} more hospitals in result.json)")
    if spent:
        delta = next(iter(result.privacy.values())).delta
        output.print(
            f"Privacy: at most epsilon {max(spent):.2f} at delta {delta:g} for each patient, at "
            "each hospital. The noise of a simulation is seeded: it protects nobody."
        )
    output.print(study.sums_sentence())
    if result.evaluation_noise is not None:
        deviation = result.evaluation_noise.deviation
        output.print(
            f"All figures have noise: each hospital adds a standard deviation of {deviation:.3g} "
            "patients to each count."
        )
    for line in _bounded(result):
        output.print(line)
    for line in result.failures:
        output.print(f"Went on without: {line}")
    output.print(f"Federated training took {result.seconds:.1f} s.")
    output.print(f"Results: {folder}/result.json   picture: {folder}/curves.png")
    output.print(f"Next: look at the picture, or try  fedward study show {folder}/study.toml")


def _bounded(result: Result) -> Iterator[str]:
    """What the study's bounds did, which somebody may not have meant."""
    if result.sums.clipped:
        yield f"{result.sums.clipped} updates were shortened to [aggregation] clip."
    if result.sums.capped:
        yield f"{result.sums.capped} hospitals count as no more than [aggregation] max_records."


def _row(
    table: Table,
    model: str,
    records: int,
    metrics: Metrics,
    epsilon: float | None,
    figures: Sequence[str],
    *,
    bold: bool = False,
) -> None:
    cells = [
        model,
        f"{records} records",
        *(_number(metrics.model_dump().get(figure)) for figure in figures),
        "-" if epsilon is None else f"{epsilon:.2f}",
    ]
    table.add_row(*map(Text, cells), style="bold" if bold else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
