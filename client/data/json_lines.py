"""Cells of JSON Lines: an object a line, whose keys are the columns."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from fedward.client.data.bounded import lines_of, read_text
from fedward.client.data.cells import NOTHING, Cells, Wanted
from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords
from fedward.client.data.rows import records_of
from fedward.client.data.sources import LinesSource
from fedward.study.errors import DataError
from fedward.study.study import Study

_DIGITS = 400  # of a number; a float64 has no more than 309 before the point


def read_lines(source: LinesSource, study: Study, context: Context) -> RawRecords:
    """The records that a study asks for, one a line.

    Raises:
        DataError: A line, a key or a value is not as the study needs it; the message names it.
    """
    path = context.folder / source.path
    return records_of(
        lambda wanted: _cells(path, wanted, context.faults),
        source,
        study,
        context,
        where=str(path),
    )


def _cells(path: Path, wanted: Wanted, faults: Faults) -> Cells:
    names: dict[str, None] = {}
    found: dict[str, list[str]] = {name: [] for name in wanted.names}
    rows = 0
    for rows, line in enumerate(lines_of(read_text(path)), start=1):
        try:
            values = _object(line, wanted)
        except ValueError as error:
            faults.add(
                DataError(f"line {rows}: {error}", todo="mend the line", where=str(path)), rows - 1
            )
            values = {}
        names |= dict.fromkeys(values)
        for name, column in found.items():
            column.append(values.get(name, ""))
    frame = pd.DataFrame({name: found[name] for name in names if name in found}, dtype=str)
    return Cells(str(path), frame.reset_index(drop=True), NOTHING, tuple(names), rows)


def _object(line: str, wanted: Wanted) -> dict[str, str]:
    try:
        pairs = json.loads(
            line,
            object_pairs_hook=_Pairs,
            parse_constant=_no_number,
            parse_int=_digits,
            parse_float=_digits,
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"is no JSON ({error.msg})") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(pairs, _Pairs):
        raise ValueError("is no JSON object")
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("has a key twice")
    return {name: _text(name, value) if name in wanted.names else "" for name, value in pairs}


class _Pairs(list[tuple[str, object]]):
    """The keys and values of an object."""


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        if any("\ud800" <= sign <= "\udfff" for sign in value):
            raise ValueError(f"key {name!r} has half of a sign (a lone surrogate)")
        return value
    raise ValueError(f"key {name!r} has neither text nor a number")


def _digits(number: str) -> str:
    """A number as it is written."""
    if len(number) > _DIGITS:
        raise ValueError(f"has a number of {len(number)} digits")
    return number


def _no_number(word: str) -> str:
    raise ValueError(f"has {word}, which is no JSON")
