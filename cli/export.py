"""`fedward export`: a finished run's model in a format of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedward.cli.console import messages, output
from fedward.cli.options import Models, OwnModel, OwnThreshold

if TYPE_CHECKING:
    from fedward.clinic.export import Exported

Run = Annotated[Path, typer.Argument(help="Folder of a finished run.", show_default=False)]


def export(
    run: Run,
    *,
    to: Annotated[
        Literal["onnx", "safetensors", "torchscript"],
        typer.Option(help="Format of the file.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The new file.", show_default=False)],
    quantize: Annotated[
        Literal["int8"] | None, typer.Option(help="Weights of 8 bits, of ONNX only.")
    ] = None,
    prune: Annotated[
        float, typer.Option(min=0, max=0.99, help="Set this share of the weights to 0.")
    ] = 0.0,
    data: Annotated[
        Path | None,
        typer.Option(help="A hospital's file: its records are tried, not the run's hospitals'."),
    ] = None,
    models: Models = None,
    model: OwnModel = None,
    threshold: OwnThreshold = None,
) -> None:
    """Write the model of a finished run for other programs, if it does the same there.

    The file also says which study it is from, what the patients' privacy cost, how a record
    becomes the model's numbers, the classes and the threshold. Its outputs are compared with
    PyTorch's before it is written; with --quantize or --prune the test records' metrics are shown
    before and after.
    """
    from fedward.clinic import export as clinic
    from fedward.clinic.finished import read_finished
    from fedward.clinic.new_file import refuse_place
    from fedward.clinic.real_records import read_real_records

    refuse_place(out)
    finished = read_finished(run, models=models, model=model, threshold=threshold)
    wanted = clinic.Wanted(to, quantize, prune)
    exported = clinic.export(finished, wanted, out, read_real_records(finished, data))
    if not exported.real:
        messages.print(
            "No records are at hand: random numbers of the study's shape were tried. Give --data "
            "with a hospital's file to try real ones.",
        )
    _show(exported, out)


def _show(exported: Exported, out: Path) -> None:
    from fedward.models.tasks.figures import NAMES, shown

    what = "records" if exported.real else "random inputs"
    if exported.difference is None:
        output.print(f"{exported.records} {what} were run with weights of 8 bits")
    else:
        output.print(
            f"{exported.records} {what}: outputs differ by at most {exported.difference:.1e} "
            "from PyTorch's"
        )
    for figure in shown(exported.before) if exported.before else ():
        was, now = exported.before[figure], exported.after[figure]
        change = "" if was is None or now is None else f"  ({now - was:+.4f})"
        output.print(f"{NAMES[figure]} on test: {_number(was)} -> {_number(now)}{change}")
    shapes = "; ".join(" x ".join(map(str, shape)) for shape in exported.shapes)
    inputs = f"   takes {shapes}" if shapes else ""
    output.print(f"{exported.bytes:,} bytes: {out}{inputs}", markup=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
