"""`fedward evaluate`: a finished run's model on all hospitals' test records, with subgroups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import output
from fedward.cli.options import Models
from fedward.study.errors import OptionError, StudyError

if TYPE_CHECKING:
    from fedward.server.evaluated import Estimate, Evaluated, Judged
    from fedward.study.evaluation import Evaluation


def evaluate(
    context: typer.Context,
    *,
    run: Annotated[
        Path, typer.Argument(help="The folder of a finished simulation.", show_default=False)
    ],
    table: Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with a table [evaluation], instead of the study's; needs --out."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The JSON file, instead of RUN/evaluation.json.")
    ] = None,
    models: Models = None,
) -> None:
    """Judge a run's model again, with subgroups and intervals, and write evaluation.json.

    The run's pretended hospitals judge their own test records; what they send are sums, secure
    where the study's are. The threshold is the run's. Cells of few patients are hidden. Of a run
    in an aggregator's registry: `fedward aggregator evaluate`.
    """
    from fedward.cli.quiet import quiet_libraries
    from fedward.clinic.finished import read_finished
    from fedward.models import flat
    from fedward.models.registry import settled
    from fedward.models.travelling import travelling
    from fedward.server.durable import write_json
    from fedward.server.evaluated import EVALUATION
    from fedward.simulation.evaluation import judged_again, with_table

    path = out or run / EVALUATION
    if table is not None and path.resolve() == (run / EVALUATION).resolve():
        raise OptionError(
            "the run's own table stays: nobody agreed on the one of --table",
            todo="give --out another file",
            where=str(path),
        )
    if not context.obj:
        quiet_libraries()
    finished = read_finished(run, models=models)
    wanted = None if table is None else _read_table(table)
    try:
        study = settled(with_table(finished.study, wanted))
    except StudyError as error:
        raise error if table is None else error.in_file(table) from None
    vector = flat.flatten(finished.model, set(travelling(study, finished.model)))
    threshold = finished.facts.threshold
    found = judged_again(run, study, vector, finished.scaling, threshold)
    found = found.model_copy(update={"study": finished.study.digest()})
    try:
        write_json(found.model_dump(mode="json"), path)
    except OSError as error:
        raise OptionError(
            f"cannot be written ({error.strerror})", todo="give another --out", where=str(path)
        ) from None
    show(found, study.study.name)
    output.print(study.sums_sentence())
    output.print(f"written: {path}")


def show(found: Evaluated, name: str) -> None:
    """Print the foremost figures with intervals, a row for each cell; the file has them all."""
    from fedward.models.tasks.figures import NAMES

    known = found.everybody.figures
    foremost = [key for key in NAMES if key in known]
    point = [key for key in ("sensitivity", "specificity") if key in known]
    columns = [foremost[0], *(point or foremost[1:3])]  # more would not fit beside each other
    patients = found.everybody.patients
    output.print(f"{name}: {patients} patients of the test part, {found.everybody.records} records")
    table = Table("whose", "patients", *(NAMES.get(key, key) for key in columns), show_lines=True)
    for row in (found.everybody, *found.cells):
        table.add_row(*map(Text, _row(row, columns, found.fewest)))
    output.print(table)
    output.print(
        f"Below a figure: its 95 % interval, of {found.replicates} replicates drawn by patients."
        if found.replicates
        else "No intervals were asked for."
    )
    output.print(
        f"< {found.fewest}: so few patients; *: hidden, so that no total gives such a cell away."
    )


def _row(row: Judged, columns: list[str], fewest: int) -> list[str]:
    from fedward.privacy.small_cells import Hidden

    small = {Hidden.SMALL: f"<{fewest}", Hidden.WITH_IT: "*"}
    patients = row.patients
    count = str(patients) if isinstance(patients, int) else small[patients]
    figures = [_figure(row.figures.get(key)) for key in columns]
    whose = f"{row.subgroup}: {row.cell}" if row.subgroup else "everybody"
    return [whose, count, *figures]


def _figure(found: Estimate | None) -> str:
    if found is None or found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f}\n{found.low:.3f} to {found.high:.3f}"


def _read_table(path: Path) -> Evaluation:
    from fedward.study.evaluation import Evaluation
    from fedward.study.frozen import Fault, read_toml, validate

    values = read_toml(path, what="evaluation").get("evaluation")
    if not isinstance(values, dict):
        raise OptionError(
            "has no table [evaluation]", todo="see docs/evaluation.md", where=str(path)
        )
    found = validate(Evaluation, values)
    if isinstance(found, Fault):
        fault = StudyError(f"evaluation.{found.key}", given=found.given, allowed=found.allowed)
        raise fault.in_file(path)
    return found


def read_evaluated(folder: Path, state: str) -> Evaluated:
    """The table of a run.

    Raises:
        OptionError: It has none, or a damaged one.
    """
    from pydantic import ValidationError

    from fedward.server.evaluated import EVALUATION, Evaluated

    path = folder / EVALUATION
    try:
        return Evaluated.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise OptionError(
            f"there is no table of the run ({state})",
            todo="write [evaluation] into the study, and wait until a run of it is finished",
            where=folder.name,
        ) from None
    except (OSError, ValidationError):
        raise OptionError("cannot be read", todo="judge it again", where=str(path)) from None
