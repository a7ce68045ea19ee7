"""From sequences of letters to numbers of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedward.client.data.faults import Faults
from fedward.client.data.records import Fact
from fedward.study.errors import DataError
from fedward.study.token_data import FIRST, UNKNOWN, SequenceData


def tokens_of(
    columns: list[pd.Series[str]], data: SequenceData, faults: Faults, *, where: str
) -> tuple[NDArray[np.int64], list[Fact]]:
    """The numbers of the letters of n sequences, shape (n, length); 0 after the end.

    A letter that the alphabet lacks, such as an ambiguous base, is 1. Where all letters of the
    alphabet are capital, small ones count as these (in genomes small ones mark repeats).

    Args:
        columns: One of whole sequences; or several, each of one letter.
        data: The study's.
        faults: Told of a sequence that is too long; where it goes on, it is cut.
        where: The file, for the error.

    Raises:
        DataError: A sequence is longer than the study allows; the message names the row.
    """
    if len(columns) > 1:
        return _from_letters(columns, data), []
    numbers_of = _one_by_one(data) if _single(data) else _longest_first(data)
    found = np.zeros((len(columns[0]), data.length), dtype=np.int64)
    cut = 0
    for place, (row, text) in enumerate(columns[0].items()):
        numbers = numbers_of(text.strip())
        if len(numbers) > data.length:
            cut += 1
            if data.longer == "refuse":
                faults.add(_too_long(len(numbers), int(str(row)), data, where), int(str(row)))
        found[place, : len(numbers)] = numbers[: data.length]
    facts = [Fact("cut", f"{cut} of {len(found)} sequences, after {data.length} letters")]
    return found, facts if cut and data.longer == "cut" else []


def _single(data: SequenceData) -> bool:
    return all(len(letter) == 1 for letter in data.alphabet)


def _numbered(data: SequenceData) -> dict[str, int]:
    """Number of each letter, also of small ones if the alphabet has none."""
    numbers = {letter: place for place, letter in enumerate(data.alphabet, start=FIRST)}
    if all(letter == letter.upper() for letter in data.alphabet):
        return {letter.lower(): number for letter, number in numbers.items()} | numbers
    return numbers


def _from_letters(columns: list[pd.Series[str]], data: SequenceData) -> NDArray[np.int64]:
    numbers = _numbered(data)
    found = np.zeros((len(columns[0]), data.length), dtype=np.int64)
    for place, column in enumerate(columns):
        found[:, place] = [numbers.get(letter.strip(), UNKNOWN) for letter in column]
    return found


def _one_by_one(data: SequenceData) -> Callable[[str], NDArray[np.int64]]:
    """Letters of one sign each: a look into a table of all signs up to the last of the alphabet."""
    known = {ord(letter): number for letter, number in _numbered(data).items()}
    last = max(known)
    table = np.full(last + 2, UNKNOWN, dtype=np.int64)
    table[list(known)] = list(known.values())

    def look(text: str) -> NDArray[np.int64]:
        signs = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        numbers: NDArray[np.int64] = table[np.minimum(signs, last + 1)]
        return numbers

    return look


def _longest_first(data: SequenceData) -> Callable[[str], NDArray[np.int64]]:
    """The longest letters that fit, from the left; a bracket that is no letter is one unknown."""
    numbers = _numbered(data)
    letters = "|".join(map(re.escape, sorted(numbers, key=len, reverse=True)))
    parted = re.compile(rf"{letters}|\[[^\[\]]*+\]|.", re.DOTALL)
    return lambda text: np.array(
        [numbers.get(letter, UNKNOWN) for letter in parted.findall(text)], dtype=np.int64
    )


def _too_long(letters: int, row: int, data: SequenceData, where: str) -> DataError:
    return DataError(
        f"row {row + 1}: the sequence has {letters} letters, more than {data.length}",
        todo='shorten it, or ask for longer = "cut" in the study\'s [data]',
        where=where,
    )
