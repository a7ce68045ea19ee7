"""What the model said, under the answer's id, until the truth is known: bounded in time and number.

Nothing of a record is in the file, and no id: a digest of it, by which a label that comes later is
found. A digest keeps a random id secret, and not one that can be guessed, such as a patient number.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.privacy.whole_file import OWNERS
from fedward.study.errors import DataError

TIDY = 60.0
"""Seconds from one tidying to the next."""

_HOUR = 3600
_SCHEMA = """
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS score (
    place INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    hour INTEGER NOT NULL,
    said BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS score_hour ON score (hour);
"""


class Bounds(NamedTuple):
    """How much is kept.

    Attributes:
        number: Most answers, and those of the last minute.
        days: For which an answer is kept.
    """

    number: int
    days: float


class KeptScores:
    """The file, for who writes it.

    Args:
        path: Of the file.
        bounds: How much is kept.
        now: The time in seconds.

    Raises:
        DataError: It cannot be used.
    """

    def __init__(self, path: Path, bounds: Bounds, now: Callable[[], float] = time.time) -> None:
        self._bounds, self._now = bounds, now
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, OWNERS))  # before anything is in it
            self._file = sqlite3.connect(path, check_same_thread=False)
            self._file.executescript(_SCHEMA)
            self._tidied = now()
            self.tidy()
        except (OSError, sqlite3.Error) as error:
            raise DataError(
                f"cannot be used for answers ({type(error).__name__})",
                todo="delete it to begin anew",
                where=str(path),
            ) from None

    def keep(self, ids: Sequence[str], said: Iterable[NDArray[np.float64]]) -> None:
        """Keep what was said under each id, a row of each, at once; of one id the newest.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        hour = int(self._now() // _HOUR)
        with self._file:
            self._file.executemany(
                "INSERT OR REPLACE INTO score (id, hour, said) VALUES (?, ?, ?)",
                [
                    (digest_of(name), hour, row.astype("<f8").tobytes())
                    for name, row in zip(ids, said, strict=True)
                ],
            )
        self.tidy_when_due()

    def tidy_when_due(self) -> None:
        """Tidy if that was not done within the last minute.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        if not 0 <= self._now() - self._tidied < TIDY:
            self.tidy()

    def tidy(self) -> None:
        """Forget what is too old or too much.

        Raises:
            sqlite3.Error: It cannot be written.
        """
        self._tidied = self._now()
        oldest = _oldest(self._tidied, self._bounds.days)
        with self._file:
            self._file.execute("DELETE FROM score WHERE hour < ?", (oldest,))
            self._file.execute(
                "DELETE FROM score WHERE place <= (SELECT place FROM score ORDER BY place DESC "
                "LIMIT 1 OFFSET ?)",
                (self._bounds.number,),
            )

    def close(self) -> None:
        """Write no more."""
        self._file.close()


def said_under(
    path: Path,
    ids: Iterable[str],
    *,
    days: float | None = None,
    now: Callable[[], float] = time.time,
) -> list[NDArray[np.float64] | None]:
    """What was said under each id; None where nothing is kept.

    Args:
        path: Of the file.
        ids: Of answers.
        days: For which an answer is kept: an older one is not looked at, though it may still be
            there when nobody serves; None for any.
        now: The time in seconds.

    Raises:
        DataError: The file cannot be read.
    """
    found: list[NDArray[np.float64] | None] = []
    oldest = 0 if days is None else _oldest(now(), days)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            for name in ids:
                row = file.execute(
                    "SELECT said FROM score WHERE id = ? AND hour >= ?", (digest_of(name), oldest)
                ).fetchone()
                found.append(None if row is None else np.frombuffer(row[0], "<f8"))
    except (sqlite3.Error, ValueError) as error:
        raise DataError(
            f"cannot be read ({type(error).__name__})",
            todo="serve with --keep-scores, and give its folder",
            where=str(path),
        ) from None
    return found


def _oldest(now: float, days: float) -> int:
    """The oldest hour that is kept."""
    return int((now - 24 * _HOUR * days) // _HOUR)


def digest_of(name: str) -> bytes:
    """Of an id, 16 bytes: by it an answer is found."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:16]
