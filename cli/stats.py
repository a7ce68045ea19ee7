"""`fedward stats`: what all hospitals' records are like together, without anybody's record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from fedward.cli.console import messages, output
from fedward.cli.options import DataSet, HowMany, Seed, StudyFile
from fedward.cli.study_file import whole_study

if TYPE_CHECKING:
    from fedward.privacy.small_cells import Cell, Number, Statistics


def stats(
    context: typer.Context,
    *,
    study: StudyFile,
    data: DataSet = None,
    hospitals: HowMany = None,
    seed: Seed = 0,
    out: Annotated[
        Path | None, typer.Option(help="Also write the table to this new JSON file.")
    ] = None,
) -> None:
    """Show statistics over all hospitals' training records, with pretended hospitals.

    The study must ask for them in [data.statistics]. They are made of sums over hospitals, secure
    where the study's sums are, and with privacy on they are noised and charged. Cells of few
    patients are hidden, and others with them, so that no total gives them away.
    """
    contract, _ = whole_study(study)
    from fedward.cli.quiet import quiet_libraries
    from fedward.server.durable import write_json
    from fedward.simulation.simulate import with_hospitals
    from fedward.simulation.statistics import Options, statistics
    from fedward.study.errors import OptionError

    if not context.obj:
        quiet_libraries()
    if out is not None and out.exists():
        raise OptionError("is there already", todo="give another --out", where=str(out))
    contract = with_hospitals(contract, hospitals)
    told = statistics(contract, Options(data, seed), say=messages.print)
    show(told.statistics, contract.study.name)
    if told.epsilon is not None:
        output.print(
            f"Privacy: the noise cost each patient epsilon {told.epsilon:.2f}. The noise of a "
            "simulation is seeded: it protects nobody."
        )
    output.print(contract.sums_sentence())
    if out is not None:
        write_json(told.statistics.model_dump(mode="json"), out)


def show(found: Statistics, name: str) -> None:
    """Print a table of statistics over all hospitals."""
    output.print(f"{name}: {found.patients} training patients of all hospitals")
    if found.numbers:
        table = Table("number", "mean", "deviation", "absent", "from", "to", "patients")
        for feature, number in found.numbers.items():
            table.add_row(*map(Text, _row(feature, number, found.fewest)))
        output.print(table)
    groups = dict(found.categories)
    if found.classes:
        groups["label"] = found.classes
    if groups:
        table = Table("category", "is", "patients")
        for feature, cells in groups.items():
            for category, cell in cells.items():
                table.add_row(*map(Text, (feature, category, _cell(cell, found.fewest))))
        output.print(table)
    output.print(
        f"< {found.fewest}: so few patients; *: hidden, so that no total gives such a cell away."
    )


def _row(feature: str, number: Number, fewest: int) -> Sequence[str]:
    cells = " ".join(_cell(cell, fewest) for cell in number.cells)
    return (
        feature,
        *("-" if v is None else f"{v:.4g}" for v in (number.mean, number.deviation)),
        _cell(number.absent, fewest),
        f"{number.low:g}",
        f"{number.high:g}",
        cells,
    )


def _cell(cell: Cell, fewest: int) -> str:
    if isinstance(cell, int):
        return str(cell)
    return f"<{fewest}" if cell.value == "small" else "*"
