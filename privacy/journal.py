"""What a hospital has already said in secure aggregation: on disk before an answer leaves.

A round's attempt is used once; an update is never unmasked for two different sets of survivors,
because the two sums would subtract to a single hospital's update.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedward.privacy.protocol_errors import BadRequest, Replayed

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempt (
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    context BLOB NOT NULL UNIQUE,
    update_id BLOB NOT NULL,
    survivors TEXT,
    PRIMARY KEY (run, round, attempt)
)
"""


class Journal:
    """The attempts that one hospital took part in."""

    def __init__(self, path: Path) -> None:
        """Open or create the journal; only its owner may read it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        self._path = path
        with self._transaction() as db:
            db.execute(_SCHEMA)

    def begin(
        self, *, run: str, server_round: int, attempt: int, context: bytes, update_id: bytes
    ) -> None:
        """Write down that an update is about to leave, masked for this context.

        Raises:
            Replayed: This attempt, or a later one of this round, was used before.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT MAX(attempt) FROM attempt WHERE run = ? AND round = ?", (run, server_round)
            ).fetchone()
            if row[0] is not None and row[0] >= attempt:
                raise Replayed(
                    f"attempt {attempt} of round {server_round} was answered before",
                    todo="the aggregator must count attempts up",
                )
            db.execute(
                "INSERT INTO attempt (run, round, attempt, context, update_id)"
                " VALUES (?, ?, ?, ?, ?)",
                (run, server_round, attempt, context, update_id),
            )

    def unmask(self, *, context: bytes, survivors: Collection[str]) -> None:
        """Write down that this attempt is about to be unmasked for these survivors.

        Raises:
            BadRequest: Nothing was masked for this context.
            Replayed: It was unmasked before, or its update was for other survivors.
        """
        named = json.dumps(sorted(survivors))
        with self._transaction() as db:
            row = db.execute(
                "SELECT run, round, update_id, survivors FROM attempt WHERE context = ?", (context,)
            ).fetchone()
            if row is None:
                raise BadRequest(
                    "asked to unmask what was never masked here", todo="see the aggregator's log"
                )
            run, server_round, update_id, before = row
            others = db.execute(
                "SELECT COUNT(*) FROM attempt WHERE run = ? AND round = ? AND update_id = ?"
                " AND survivors IS NOT NULL AND survivors != ?",
                (run, server_round, update_id, named),
            ).fetchone()
            if before is not None or others[0]:
                raise Replayed(
                    f"round {server_round} was unmasked here before",
                    todo="the aggregator must go on to the next round",
                )
            db.execute("UPDATE attempt SET survivors = ? WHERE context = ?", (named, context))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as db:
            db.execute("PRAGMA synchronous = FULL")
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
