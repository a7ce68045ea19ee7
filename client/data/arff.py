"""Cells of ARFF files (Weka's format), dense ones.

SciPy's reader knows no texts, so this one is our own: strict, and nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from fedward.client.data.bounded import lines_of, read_text
from fedward.client.data.cells import NOTHING, Cells, Wanted, refuse_twins
from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords
from fedward.client.data.rows import records_of
from fedward.client.data.sources import ArffSource
from fedward.study.errors import DataError
from fedward.study.study import Study

# One value, quoted with escapes or plain, and what comes after it.
# Possessive (`*+`), so that no hostile line is looked at more than once.
_QUOTED = r"""'((?:[^'\\]|\\.)*+)'|"((?:[^"\\]|\\.)*+)\""""
_VALUE = re.compile(rf"""\s*+(?:(?:{_QUOTED})\s*+|([^,'"{{}}]*+))(,|$)""", re.DOTALL)
_NAME = re.compile(rf"""\s*+(?:{_QUOTED}|([^\s'"{{}}%,]++))\s*+(.*+)""", re.DOTALL)
_NUMBERS = {"numeric", "real", "integer"}
_TEXTS = {"string"}
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class _Column(NamedTuple):
    name: str
    values: frozenset[str] | None


def read_arff(source: ArffSource, study: Study, context: Context) -> RawRecords:
    """The rows that a study asks for.

    Raises:
        DataError: A line, a column or a value is not as ARFF or the study has it.
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
    lines = _lines(read_text(path))
    try:
        columns = list(_header(lines))
    except ValueError as error:
        raise DataError(str(error), todo="give an ARFF file", where=str(path)) from None
    names = [column.name for column in columns]
    refuse_twins(names, wanted, where=str(path))
    chosen = [place for place, name in enumerate(names) if name in wanted.names]
    rows: list[list[str]] = []
    for number, line in lines:
        try:
            values = _row(line, columns)
        except ValueError as error:
            faults.add(
                DataError(f"line {number}: {error}", todo="mend the line", where=str(path)),
                len(rows),
            )
            values = [""] * len(names)
        rows.append([values[place] for place in chosen])
    frame = pd.DataFrame(rows, columns=[names[place] for place in chosen], dtype=str)
    return Cells(str(path), frame, NOTHING, tuple(names), len(rows))


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, with their numbers."""
    for number, line in enumerate(lines_of(text), start=1):
        stripped = line.strip()
        if stripped and not stripped.startswith("%"):
            yield number, stripped


def _header(lines: Iterator[tuple[int, str]]) -> Iterator[_Column]:
    found = False
    for number, line in lines:
        word, *rest = line.split(maxsplit=1)
        match word.lower():
            case "@relation":
                continue
            case "@attribute" if rest:
                found = True
                yield _column(rest[0], number)
            case "@data" if found and not rest:
                return
            case _:
                raise ValueError(f"line {number}: neither @attribute nor @data")
    raise ValueError("there is no @data")


def _column(text: str, number: int) -> _Column:
    match = _NAME.fullmatch(text)
    if match is None:
        raise ValueError(f"line {number}: an attribute without a name")
    single, double, plain, kind = match.groups()
    name = plain if plain is not None else _unescaped(single if single is not None else double)
    if kind.startswith("{") and kind.endswith("}"):
        return _Column(name, frozenset(value for value, _ in _values(kind[1:-1])))
    if kind.lower() in _NUMBERS | _TEXTS or kind.lower().split(maxsplit=1)[:1] == ["date"]:
        return _Column(name, None)
    raise ValueError(f"line {number}: attribute {name!r} is of no type that is read here")


def _row(line: str, columns: list[_Column]) -> list[str]:
    if line.startswith("{"):
        raise ValueError("a sparse row")
    if "'" in line or '"' in line or "\\" in line:
        pairs = list(_values(line))
    else:
        pairs = [(value.strip(), False) for value in line.split(",")]
    if len(pairs) != len(columns):
        raise ValueError(f"{len(pairs)} values, for {len(columns)} attributes")
    found = []
    for (value, quoted), column in zip(pairs, columns, strict=True):
        if value == "?" and not quoted:
            found.append("")
            continue
        if column.values is not None and value not in column.values:
            raise ValueError(f"{value!r} is no value of attribute {column.name!r}")
        found.append(value)
    return found


def _values(text: str) -> Iterator[tuple[str, bool]]:
    """Values between commas, and whether each is quoted."""
    place = 0
    while True:
        match = _VALUE.match(text, place)
        if match is None:
            raise ValueError(f"a quotation mark or brace out of place, from character {place + 1}")
        single, double, plain, after = match.groups()
        if plain is not None:
            yield plain.strip(), False
        else:
            yield _unescaped(single if single is not None else double), True
        if not after:
            return
        place = match.end()


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), text, flags=re.DOTALL)
