"""Which cell of the study's subgroups a record is in, from what a column says."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.any_source import AnySource
from fedward.client.data.labelled import LabelTable
from fedward.client.data.records import RawRecords
from fedward.study.any_data import label_text
from fedward.study.errors import DataError
from fedward.study.evaluation import Subgroup
from fedward.study.study import Study

CellNumbers = NDArray[np.int64]
_NOTHING = frozenset({"", "?", "na", "nan", "n/a", "none", "null"})


def columns_of(study: Study) -> tuple[str, ...]:
    """The columns that the study's subgroups are read from, each once, as the study calls them."""
    if study.evaluation is None:
        return ()
    return tuple(dict.fromkeys(group.column for _, group in study.evaluation.ordered))


def cells_of(
    study: Study, column: Callable[[str], Sequence[str]], *, where: str
) -> CellNumbers | None:
    """The place of each record's cell in each subgroup, -1 for none, shape (n, subgroups).

    Args:
        study: Which subgroups it has.
        column: Gives a column as text by the study's name for it, n values.
        where: The file, for errors.

    Returns:
        None for a study without subgroups.

    Raises:
        DataError: There is no such column, or it has a value that is no number where edges are.
    """
    if study.evaluation is None or not study.evaluation.subgroups:
        return None
    groups = [group for _, group in study.evaluation.ordered]
    found = [_cells(column(group.column), group, where) for group in groups]
    return np.stack(found, axis=1).astype(np.int64)


def cells_in_table(
    study: Study, source: AnySource, table: LabelTable | None, *, where: str
) -> CellNumbers | None:
    """The same from a table of labels, for each of its rows.

    Args:
        study: Which subgroups it has.
        source: What the hospital calls its columns.
        table: None if there is none.
        where: The files, for the error.

    Raises:
        DataError: As for `cells_of`; or there is no such table.
    """

    def column(name: str) -> list[str]:
        if table is None:
            raise DataError(
                f"nothing says the column {name!r} of the study's subgroups",
                todo="give a table: labels in hospital.toml",
                where=where,
            )
        return table.column(source.column(name))

    return cells_of(study, column, where=where if table is None else str(table.path))


def refuse_unknown(raw: RawRecords, study: Study, kind: str) -> RawRecords:
    """The records, unless the study has subgroups and the reader knows none.

    Raises:
        DataError: It knows none.
    """
    if columns_of(study) and raw.cells is None:
        raise DataError(
            f"files of the format {kind} have no columns, and the study's subgroups ask for "
            f"{', '.join(map(repr, columns_of(study)))}",
            todo="bring the records in a format with a table, or do not approve the study",
        )
    return raw


def _cells(values: Sequence[str], group: Subgroup, where: str) -> list[int]:
    if group.values is not None:
        places = {name: place for place, name in enumerate(group.names)}
        return [places.get(label_text(value), -1) for value in values]
    edges = group.edges or ()
    found = []
    for row, value in enumerate(values):
        place = _band(value, edges)
        if place is None:
            raise DataError(
                f"row {row + 1}, column {group.column!r} is no number: {str(value)[:40]!r}",
                todo="mend it or leave it empty: the study's subgroups are bands of numbers",
                where=where,
            )
        found.append(place)
    return found


def _band(value: str, edges: Sequence[float]) -> int | None:
    """The place of a number's band, -1 where there is none; None for what is no number."""
    if str(value).strip().lower() in _NOTHING:
        return -1
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    return bisect.bisect_right(edges, number) if math.isfinite(number) else None
