"""`fedward privacy`: what can be said of a study's privacy by trying."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fedward.cli.console import messages, output
from fedward.cli.options import Seed, StudyFile
from fedward.cli.study_file import whole_study

if TYPE_CHECKING:
    from fedward.simulation.audit import AuditResult

app = typer.Typer(no_args_is_help=True, help="Try whether a study is as private as it says.")


@app.command()
def audit(
    context: typer.Context,
    *,
    study: StudyFile,
    data: Annotated[Path | None, typer.Option(help="The data set, as for simulate.")] = None,
    canaries: Annotated[
        int, typer.Option(min=2, max=5000, help="Invented patients, of whom half are trained on.")
    ] = 200,
    records: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Records of each canary; by default as many as the study lets into a step.",
        ),
    ] = None,
    seed: Seed = 0,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0.01, max=50, help="Budget to calibrate the noise to, not the study's."),
    ] = None,
) -> None:
    """Try to find out who was in a training, and compare with the epsilon that it was charged.

    Invented patients, the canaries, join the smallest pretended hospital, each with probability
    1/2. It trains once, with the study's own private training, and from the noisy gradients the
    audit guesses who joined. The more guesses are right, the more privacy was lost: that is a lower
    bound on epsilon (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846).

    It also counts who is in each step: the charge is for a Poisson sample of patients, and a
    sampler that takes everybody, or all in turn, costs more.

    Ends with exit code 1 if the bound is above the epsilon that was charged, or the sample is not
    the one that was charged: then the build, or its accounting, is broken. To pass does not prove
    the epsilon.
    """
    contract, _ = whole_study(study)
    from fedward.cli.quiet import quiet_libraries
    from fedward.simulation import audit as simulation

    if not context.obj:
        quiet_libraries()
    options = simulation.Options(data, canaries, records, seed, epsilon)
    with messages.status(f"training with {canaries} canaries"):
        result = simulation.audit(contract, options, say=messages.print)
    _show(result, contract.study.name)
    result.refuse_contradiction()
    for line in _verdict(result):
        output.print(line)


def _show(result: AuditResult, name: str) -> None:
    title = f"{name}: epsilon for each patient, at delta {result.delta:g}"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("charged", f"{result.epsilon:.2f}")
    table.add_row("lost at least (95 % confidence)", f"{result.lower_bound:.2f}", style="bold")
    table.add_row("most that these canaries can show", f"{result.largest_bound:.2f}")
    output.print(table)
    output.print(
        f"Hospital {result.hospital}: {result.patients} training patients and {result.included} of "
        f"{result.canaries} canaries, each with {_records(result.records)}."
    )
    output.print(
        f"{result.right} of {result.guesses} guesses are right. In all steps together "
        f"{result.drawn} patients were drawn; at the charged rate {result.expected:.0f} are "
        f"expected. The audit took {result.seconds:.1f} s."
    )


def _verdict(result: AuditResult) -> Iterator[str]:
    """What an audit that found no contradiction does and does not say."""
    if result.largest_bound > result.epsilon:
        yield "The audit does not contradict the charge. It cannot prove it."
    else:
        yield (
            f"This audit cannot find that epsilon {result.epsilon:.2f} is too low a charge: "
            f"{result.canaries} canaries can show {result.largest_bound:.2f} at most, whatever the "
            "build does."
        )
        yield _instead(result)
    if result.weights < result.patients + result.canaries:
        yield (
            f"The model has {result.weights} weights, fewer than patients and canaries: they hide "
            "each other. Fewer --canaries may show more."
        )


def _instead(result: AuditResult) -> str:
    ways = []
    if result.smaller_epsilon is not None:
        ways.append(f"--epsilon {result.smaller_epsilon:g}, which audits the same build")
    if result.more_canaries is not None:
        ways.append(f"--canaries {result.more_canaries}")
    return f"Give {' or '.join(ways)}." if ways else "Lower [privacy] delta for an audit."


def _records(number: int) -> str:
    return "1 record" if number == 1 else f"{number} records"
