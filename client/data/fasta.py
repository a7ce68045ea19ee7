"""Cells of FASTA files: the columns `file` (a sequence's name) and `sequence`."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from fedward.client.data.bounded import lines_of, read_text
from fedward.client.data.cells import NOTHING, Cells
from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords
from fedward.client.data.rows import records_of
from fedward.client.data.sources import FastaSource
from fedward.study.errors import DataError
from fedward.study.study import Study

_LETTERS = re.compile(r"[A-Za-z*.-]+")
_COLUMNS = ("file", "sequence")


def read_fasta(source: FastaSource, study: Study, context: Context) -> RawRecords:
    """The sequences that a study asks for; their labels are in a table.

    Raises:
        DataError: A line, a name or a letter is not as FASTA has it; the message names it.
    """
    path = context.folder / source.path
    return records_of(
        lambda wanted: _cells(path, context.faults), source, study, context, where=str(path)
    )


def _cells(path: Path, faults: Faults) -> Cells:
    names: list[str] = []
    found: list[list[str]] = []
    seen: set[str] = set()
    for number, line in enumerate(lines_of(read_text(path)), start=1):
        text = line.strip()
        row = max(len(names) - 1, 0)
        if text.startswith(">"):
            name = text[1:].split(maxsplit=1)[0] if text[1:].strip() else ""
            if not name or name in seen:
                _tell(path, number, "a sequence without a name of its own", row + 1, faults)
            seen.add(name)
            names.append(name)
            found.append([])
        elif text and not names:
            raise DataError(
                f"line {number}: letters before the first name",
                todo="give a FASTA file, which begins with >",
                where=str(path),
            )
        elif text:
            if not _LETTERS.fullmatch(text):
                _tell(path, number, "a sign that is no letter of a sequence", row, faults)
            found[-1].append(text)
    frame = pd.DataFrame(
        {"file": names, "sequence": ["".join(lines) for lines in found]}, dtype=str
    )
    return Cells(str(path), frame, NOTHING, _COLUMNS, len(frame))


def _tell(path: Path, line: int, what: str, row: int, faults: Faults) -> None:
    error = DataError(f"line {line}: {what}", todo="mend the line", where=str(path))
    faults.add(error, row)
