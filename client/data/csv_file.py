"""Cells of a text file with delimiters."""

from __future__ import annotations

import io
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedward.client.data.bounded import read_bytes
from fedward.client.data.cells import NOTHING, Cells, Wanted, refuse_twins
from fedward.study.errors import DataError

_OPEN_FILES = "/proc/self/fd"
_MOST_COLUMNS = 2**16  # each costs time, wanted or not
_FIRST_LINE = re.compile(rb"[\r\n]*([^\r\n]*)")


def read_csv(
    path: Path,
    wanted: Wanted,
    *,
    delimiter: str = ",",
    columns: tuple[str, ...] | None = None,
    missing: tuple[str, ...] = (),
) -> Cells:
    """The wanted columns of a CSV file, in UTF-8, perhaps packed by gzip.

    Args:
        path: The file.
        wanted: Columns.
        delimiter: Between two values.
        columns: Names of the columns, if the file has no header line.
        missing: Texts that mean that there is no value, beside nothing at all.

    Raises:
        DataError: It cannot be read.
    """
    content, marks = read_bytes(path), NOTHING.union(missing)
    _refuse_wide(content, delimiter, path)
    settings: dict[str, Any] = {"sep": delimiter, "skipinitialspace": b" " in content}
    try:
        with _with_a_path(content) as file:
            del content
            head = _parsed(file, {**settings, "header": None, "nrows": 1, "dtype": str})
            names = list(columns) if columns else [str(name) for name in head.iloc[0]]
            refuse_twins(names, wanted, where=str(path))
            settings |= {"header": None, "names": names} if columns else {"header": 0}
            frame = _Table(file, settings, names, marks).frame(wanted)
    except (ValueError, pd.errors.ParserWarning) as error:
        raise DataError(
            f"cannot be read as a table ({error})", todo="give a CSV file", where=str(path)
        ) from None
    return Cells(str(path), frame, marks, tuple(names), len(frame))


@dataclass(frozen=True)
class _Table:
    """A file whose columns are known.

    Attributes:
        file: Its path or content.
        settings: How pandas reads it.
        names: Its columns.
        marks: Texts that mean that a number is missing.
    """

    file: str | bytes
    settings: dict[str, Any]
    names: list[str]
    marks: frozenset[str]

    def frame(self, wanted: Wanted) -> pd.DataFrame:
        """The wanted columns; quickest is to let pandas find what kind of number one has."""
        found = self._read(wanted, number=None)
        numbers = [name for name in found if name in wanted.numbers]
        # Among whole numbers pandas looks for a mark as it is written, and 9.0 is the mark 9 too.
        a_mark_is_a_number = any(map(_is_finite, self.marks))
        as_meant = all(found.dtypes[name].kind in "iuf" for name in numbers)
        if not numbers or (as_meant and not a_mark_is_a_number):
            return found.astype(dict.fromkeys(numbers, float))
        if not any(_says_yes_or_no(found[name]) for name in numbers):  # a yes would become a 1
            with suppress(ValueError):  # a number is none: the text says which
                return self._read(wanted, number=float)
        return self._read(wanted.as_text(), number=None)

    def _read(self, wanted: Wanted, *, number: type | None) -> pd.DataFrame:
        numbers = {name: number for name in self.names if name in wanted.numbers}
        texts = {name: _text() for name in self.names if name in wanted.texts}
        types = {
            "dtype": texts if number is None else texts | numbers,
            "na_values": dict.fromkeys(numbers, sorted(self.marks)),
        }
        whole = _parsed(self.file, self.settings | types)
        chosen = {  # by their places, for pandas has renamed twins
            name: whole.iloc[:, place]
            for place, name in enumerate(self.names)
            if name in wanted.names  # another may be what it likes
        }
        chosen |= {name: chosen[name].astype("str") for name in texts if _text() is not object}
        return pd.DataFrame(chosen, index=whole.index, copy=False)


def _is_finite(mark: str) -> bool:
    """Whether a mark reads as a number that a column can have."""
    try:
        return math.isfinite(float(mark))
    except ValueError:
        return False


def _says_yes_or_no(column: pd.Series[Any]) -> bool:
    """Whether pandas found words such as True in it, perhaps among others."""
    if column.dtype.kind != "O":
        return bool(column.dtype.kind == "b")
    return any(isinstance(value, bool | np.bool_) for value in column)


@cache
def _text() -> Any:  # noqa: ANN401
    """How text is parsed: not in Python, which is quicker, where the library for that is there."""
    try:
        import pyarrow
    except ImportError:
        return object
    return pd.ArrowDtype(pyarrow.large_string())


def _refuse_wide(content: bytes, delimiter: str, path: Path) -> None:
    """Accept a table by returning; its columns are counted before anything is parsed."""
    first = _FIRST_LINE.match(content)
    columns = 1 + (first[1].count(delimiter.encode()) if first else 0)
    if columns > _MOST_COLUMNS:
        raise DataError(
            f"has {columns} columns, of which {_MOST_COLUMNS} can be read",
            todo="give a table of the columns that studies need",
            where=str(path),
        )


@contextmanager
def _with_a_path(content: bytes) -> Iterator[str | bytes]:
    """A copy in memory under a path, or the content where the system has no such files.

    What has a path pandas maps, and reads on several cores. The hospital's own file is not mapped:
    a process whose file is cut short meanwhile ends without a word.
    """
    if not hasattr(os, "memfd_create") or not Path(_OPEN_FILES).is_dir():
        yield content
        return
    with open(os.memfd_create("table"), "wb", buffering=0) as file:
        left = memoryview(content)
        while len(left):
            left = left[file.write(left) or 0 :]
        del content, left
        yield f"{_OPEN_FILES}/{file.fileno()}"


def _parsed(file: str | bytes, settings: dict[str, Any]) -> pd.DataFrame:
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # lines of another length
        warnings.simplefilter("ignore", pd.errors.DtypeWarning)  # of columns that nobody wants
        frame: pd.DataFrame = pd.read_csv(
            source, index_col=False, compression=None, keep_default_na=False, **settings
        )
    return frame
