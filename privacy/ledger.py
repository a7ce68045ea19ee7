"""What a hospital has spent of its patients' privacy: one SQLite file beside its data.

A charge is on disk before the first gradient of the round is computed, so a crash can waste budget
and never overspend it. The total is always composed anew from all charges.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fedward.privacy.accounting import Accountant, SampledGaussian, epsilon_of
from fedward.study.errors import BudgetError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
    id INTEGER PRIMARY KEY,
    study TEXT NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    noise_multiplier REAL NOT NULL CHECK (noise_multiplier >= 0),
    sampling_rate REAL NOT NULL CHECK (sampling_rate > 0 AND sampling_rate <= 1),
    steps INTEGER NOT NULL CHECK (steps > 0),
    charged_at TEXT NOT NULL
)
"""


@dataclass(frozen=True)
class Charge:
    """One round's steps, about to be taken.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        round: From 1.
        steps: Noise multiplier, sampling rate and number of steps.
    """

    study: str
    run: str
    round: int
    steps: SampledGaussian


class Ledger:
    """The charges of one hospital."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger; only its owner may read it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        self._path = path
        with self._open() as db:
            db.execute(_SCHEMA)

    def charge(
        self, charge: Charge, *, cap: float | None, delta: float, accountant: Accountant
    ) -> None:
        """Write a charge to disk.

        Args:
            charge: The steps about to be taken.
            cap: Epsilon that the total at `delta` may not pass; None for no cap.
            delta: In (0, 1).
            accountant: Which accountant composes.

        Raises:
            BudgetError: The total would pass the hospital's cap; nothing is written.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            if cap is not None:
                _refuse_above(cap, _history(db), charge, delta, accountant)
            db.execute(
                "INSERT INTO charge (study, run, round, noise_multiplier, sampling_rate, steps,"
                " charged_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    charge.study,
                    charge.run,
                    charge.round,
                    *charge.steps,
                    datetime.now(UTC).isoformat(),
                ),
            )
            db.execute("COMMIT")

    def noise_multiplier(self, *, study: str, run: str) -> float | None:
        """The noise multiplier that this run was charged with; None before its first charge."""
        with self._open() as db:
            row = db.execute(
                "SELECT noise_multiplier FROM charge WHERE study = ? AND run = ? LIMIT 1",
                (study, run),
            ).fetchone()
        return None if row is None else float(row[0])

    def epsilon(self, *, delta: float, accountant: Accountant) -> float:
        """Epsilon of everything charged so far, at `delta`."""
        with self._open() as db:
            return epsilon_of(_history(db), delta, accountant)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                yield db
        except sqlite3.DatabaseError as error:
            raise BudgetError(
                f"the privacy ledger cannot be used ({error})",
                todo="restore it from a backup; without it no budget can be spent",
            ) from None


def _refuse_above(
    cap: float, history: list[SampledGaussian], charge: Charge, delta: float, accountant: Accountant
) -> None:
    total = epsilon_of([*history, charge.steps], delta, accountant)
    if total <= cap:
        return
    spent = epsilon_of(history, delta, accountant)
    raise BudgetError(
        f"round {charge.round} would bring epsilon to {total:.3g}, above this hospital's cap of "
        f"{cap:g} ({spent:.3g} is spent)",
        todo="raise [limits] epsilon in hospital.toml, or ask for a smaller study",
    )


def _history(db: sqlite3.Connection) -> list[SampledGaussian]:
    rows = db.execute("SELECT noise_multiplier, sampling_rate, steps FROM charge ORDER BY id")
    return [SampledGaussian(*row) for row in rows]
