"""Cells of a table, of whatever format, before anybody asks what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.study.errors import DataError

NOTHING = frozenset({""})
_SHOWN = 40  # names of columns in an error


@dataclass(frozen=True)
class Wanted:
    """The columns that are asked for, as the hospital calls them.

    Attributes:
        texts: Wanted as text, as written.
        numbers: May come as float64, NaN where nothing is, if all of a column can; else as text.
    """

    texts: frozenset[str]
    numbers: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """All of them."""
        return self.texts | self.numbers

    def as_text(self) -> Wanted:
        """The same columns, all as written."""
        return Wanted(self.names)

    def and_texts(self, names: frozenset[str]) -> Wanted:
        """With more columns, as text."""
        return Wanted(self.texts | names, self.numbers - names)


class Coded(NamedTuple):
    """A column of text, of which most is often said many times.

    Attributes:
        codes: For each row the place of its text among the different ones, shape (n,).
        different: Texts in the order in which they appear, each once, shape (k,).
    """

    codes: NDArray[np.int64]
    different: NDArray[np.object_]

    @property
    def texts(self) -> NDArray[np.str_]:
        """The whole column."""
        found: NDArray[np.str_] = self.different.astype(str)[self.codes]
        return found


class Numbers(NamedTuple):
    """A column of numbers.

    Attributes:
        values: Shape (n,).
        ends: The least and the greatest; NaN if one is NaN, and nothing of nothing.
    """

    values: NDArray[np.float64]
    ends: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Numbers:
        """Look through a column."""
        return cls(values, np.array([values.min(), values.max()] if len(values) else []))


@dataclass(frozen=True)
class Cells:
    """Those of the wanted columns that a file has.

    Attributes:
        where: The file, for errors.
        frame: Columns of text or float64. The index is the row's place in the file, from 0.
        marks: Texts that mean that there is no value.
        columns: All columns of the file.
        size: Rows in the file.
    """

    where: str
    frame: pd.DataFrame
    marks: frozenset[str]
    columns: tuple[str, ...]
    size: int
    _coded: dict[str, Coded] = field(default_factory=dict, init=False, repr=False, compare=False)
    _numbers: dict[str, Numbers | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def coded(self, column: str) -> Coded:
        """A column of text by its different texts, looked through once."""
        if column not in self._coded:
            codes, different = pd.factorize(self.frame[column])
            if len(codes) and codes.min() < 0:  # something is None; looked for only then
                codes, different = pd.factorize(self.frame[column], use_na_sentinel=False)
            texts = np.asarray(different, dtype=object)
            self._coded[column] = Coded(codes.astype(np.int64, copy=False), texts)
        return self._coded[column]

    def know(self, coded: dict[str, Coded]) -> None:
        """Take columns of text as a reader has coded them already."""
        self._coded.update(coded)

    def numbers(self, column: str) -> Numbers | None:
        """A column of numbers, looked through once; None if it is text."""
        if column not in self._numbers:
            cells = self.frame[column]
            plain = cells.dtype == float
            self._numbers[column] = Numbers.of(cells.to_numpy()) if plain else None
        return self._numbers[column]

    def missing(self, column: str) -> NDArray[np.bool_]:
        """Where a column has no value, shape (n,)."""
        numbers = self.numbers(column)
        if numbers is not None:
            if not np.isnan(numbers.ends).any():
                return np.zeros(len(numbers.values), dtype=bool)
            lacking: NDArray[np.bool_] = np.isnan(numbers.values)
            return lacking
        codes, different = self.coded(column)
        if self.marks.isdisjoint(different):
            return np.zeros(len(codes), dtype=bool)
        return np.array([text in self.marks for text in different])[codes]

    def only(self, kept: pd.Series[bool]) -> Cells:
        """Some of the rows."""
        return replace(self, frame=self.frame[kept])

    def need(self, column: str) -> pd.Series[str]:
        """A column that has to be there."""
        if column not in self.frame:
            more = len(self.columns) - _SHOWN
            rest = f" and {more} more" if more > 0 else ""
            raise DataError(
                f"has no column {column!r}",
                todo=f"columns found: {', '.join(self.columns[:_SHOWN])}{rest}",
                where=self.where,
            )
        cells: pd.Series[str] = self.frame[column]
        return cells


Read = Callable[[Wanted], Cells]
"""Reads a file's columns; raises `DataError`."""


def refuse_twins(columns: list[str], wanted: Wanted, *, where: str) -> None:
    """Which of two columns of one name is meant, nobody can say."""
    twins = [name for name in columns if name in wanted.names and columns.count(name) > 1]
    if twins:
        raise DataError(f"has two columns {twins[0]!r}", todo="rename one", where=where)
