"""The table of figures with intervals, of everybody and of subgroups."""

from __future__ import annotations

from typing import NamedTuple

from fedward.clinic.report_words import METRICS, Figure, number
from fedward.clinic.told import Estimate, Judged, Told


class SubgroupRow(NamedTuple):
    """Everybody, or one cell.

    Attributes:
        name: Of the subgroup and the cell.
        patients: How many, or that they are hidden.
        figures: Empty where they are hidden.
    """

    name: str
    patients: str
    figures: list[Figure]


class SubgroupTable(NamedTuple):
    """The table, and what is said above it."""

    caption: str
    columns: list[str]
    rows: list[SubgroupRow]


def subgroups_of(told: Told) -> SubgroupTable | None:
    """What `evaluation.json` says; None where there is none."""
    found = told.evaluation
    if found is None:
        return None
    names = list(found.everybody.figures)
    drawn = (
        f" In brackets: 95 % intervals of {found.replicates} bootstrap replicates, drawn by "
        "patients at each hospital."
        if found.replicates
        else ""
    )
    hidden = f" Cells of fewer than {found.fewest} patients are hidden." if found.cells else ""
    return SubgroupTable(
        caption=f"The test part of all hospitals together.{drawn}{hidden}",
        columns=[METRICS.get(name, name) for name in names],
        rows=[_row(row, names, found.fewest) for row in (found.everybody, *found.cells)],
    )


def _row(row: Judged, names: list[str], fewest: int) -> SubgroupRow:
    name = f"{row.subgroup}: {row.cell}" if row.subgroup else "everybody"
    if isinstance(row.patients, int):
        figures = [_figure(row.figures[key]) for key in names if key in row.figures]
        return SubgroupRow(name, str(row.patients), figures)
    small = f"fewer than {fewest}" if row.patients == "small" else "hidden"
    return SubgroupRow(name, small, [])


def _figure(found: Estimate) -> Figure:
    text = number(found.value)
    if found.low is not None and found.high is not None:
        text += f" ({number(found.low)} to {number(found.high)})"
    return Figure(found.value, text)
