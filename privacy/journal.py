"""What a hospital has already said in secure aggregation: on disk before an answer leaves.

A round is worked for once, and its attempts are used once; all of them are about one model and over
the same invited hospitals; rounds only go forward; and a round is never unmasked for two different
sets of survivors. Otherwise two sums could be had that subtract to something of one hospital.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from fedward.privacy.protocol_errors import BadRequest, Replayed
from fedward.study.errors import DataError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS attempt (
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    context BLOB NOT NULL UNIQUE,
    told BLOB NOT NULL,
    invited BLOB NOT NULL,
    survivors TEXT,
    PRIMARY KEY (run, round, attempt)
)
"""
_WORK = """
CREATE TABLE IF NOT EXISTS work (
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    PRIMARY KEY (run, round)
)
"""


class Journal:
    """The attempts that one hospital took part in."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Open or create the journal; only its owner may read it.

        Args:
            path: The SQLite file.
            durable: Wait for the disk at every answer. Only a simulation, which protects nobody,
                may do without.
        """
        self._synchronous = "EXTRA" if durable else "OFF"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        self._path = path
        with self._transaction() as db:
            db.execute(_SCHEMA)
            db.execute(_WORK)

    def reserve(self, *, run: str, server_round: int) -> None:
        """Write down that work for a round is about to begin; it is done once, come what may.

        A second training would give another contribution, and two sums with the one and the other
        would subtract to their difference.

        Raises:
            Replayed: It was begun before, or a later round was.
        """
        with self._transaction() as db:
            _refuse_past(db, run, server_round)
            before = db.execute(
                "SELECT COUNT(*) FROM work WHERE run = ? AND round = ?", (run, server_round)
            ).fetchone()
            if before[0]:
                raise Replayed(
                    f"round {server_round} was worked for before, and what came of it is gone",
                    todo="the aggregator must go on to the next round",
                )
            db.execute("INSERT INTO work (run, round) VALUES (?, ?)", (run, server_round))

    def begin(
        self,
        *,
        run: str,
        server_round: int,
        attempt: int,
        context: bytes,
        told: bytes,
        invited: bytes,
    ) -> None:
        """Write down that an update is about to leave, masked for this context.

        Args:
            run: Name of the run.
            server_round: From 1; 0 is what is measured before the first.
            attempt: From 1; counts up within a round.
            context: Of this attempt.
            told: Digest of what the hospital was told.
            invited: Digest of whom the sum is over.

        Raises:
            Replayed: This attempt, or a later one of this round, was used before, or the round was
                about another model or over other hospitals, or a later round was begun.
        """
        with self._transaction() as db:
            _refuse(db, run, server_round, attempt, told, invited)
            db.execute(
                "INSERT INTO attempt (run, round, attempt, context, told, invited)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (run, server_round, attempt, context, told, invited),
            )

    def check(
        self, *, run: str, server_round: int, attempt: int, told: bytes, invited: bytes
    ) -> None:
        """Raise what `begin` would raise: worth knowing before any work is done.

        Raises:
            Replayed: As for `begin`.
        """
        with self._transaction() as db:
            _refuse(db, run, server_round, attempt, told, invited)

    def told(self, *, run: str, server_round: int, attempt: int) -> bytes:
        """Digest of what this hospital was told when it masked for an attempt.

        Raises:
            BadRequest: Nothing was masked for it.
        """
        with self._transaction() as db:
            row = db.execute(
                "SELECT told FROM attempt WHERE run = ? AND round = ? AND attempt = ?",
                (run, server_round, attempt),
            ).fetchone()
        if row is None:
            raise _never_masked()
        told: bytes = row[0]
        return told

    def unmask(self, *, context: bytes, survivors: Collection[str]) -> None:
        """Write down that this attempt is about to be unmasked for these survivors.

        The same survivors may be asked for again: an answer can be lost, and says nothing new the
        second time.

        Raises:
            BadRequest: Nothing was masked for this context.
            Replayed: The round, in this attempt or another, was unmasked for other survivors.
        """
        named = json.dumps(sorted(survivors))
        with self._transaction() as db:
            row = db.execute(
                "SELECT run, round FROM attempt WHERE context = ?", (context,)
            ).fetchone()
            if row is None:
                raise _never_masked()
            others = db.execute(
                "SELECT COUNT(*) FROM attempt WHERE run = ? AND round = ?"
                " AND survivors IS NOT NULL AND survivors != ?",
                (*row, named),
            ).fetchone()
            if others[0]:
                raise Replayed(
                    f"round {row[1]} was unmasked here before, for other survivors",
                    todo="the aggregator must go on to the next round",
                )
            db.execute("UPDATE attempt SET survivors = ? WHERE context = ?", (named, context))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=60, isolation_level=None)) as db:
                db.execute(f"PRAGMA synchronous = {self._synchronous}")
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"the journal cannot be used ({error})",
                todo="move it away: this hospital then advertises anew, in a new run",
                where=str(self._path),
            ) from None


def _refuse_past(db: sqlite3.Connection, run: str, server_round: int) -> None:
    latest = db.execute(
        "SELECT MAX(round) FROM (SELECT run, round FROM attempt UNION ALL"
        " SELECT run, round FROM work) WHERE run = ?",
        (run,),
    ).fetchone()[0]
    if latest is not None and latest > server_round:
        raise Replayed(
            f"round {server_round} is over: round {latest} was begun",
            todo="the aggregator must not go back",
        )


def _refuse(
    db: sqlite3.Connection, run: str, server_round: int, attempt: int, told: bytes, invited: bytes
) -> None:
    _refuse_past(db, run, server_round)
    rows = db.execute(
        "SELECT attempt, told, invited FROM attempt WHERE run = ? AND round = ?",
        (run, server_round),
    ).fetchall()
    if any(before >= attempt for before, _, _ in rows):
        raise Replayed(
            f"attempt {attempt} of round {server_round} was answered before",
            todo="the aggregator must count attempts up",
        )
    if any(before != told for _, before, _ in rows):
        raise Replayed(
            f"round {server_round} was asked before, about another model",
            todo="the aggregator must go on to the next round",
        )
    if any(before != invited for _, _, before in rows):
        raise Replayed(
            f"round {server_round} was asked before, over other hospitals",
            todo="the aggregator must repeat it with the same adverts, or go on",
        )


def _never_masked() -> BadRequest:
    return BadRequest("asked to unmask what was never masked here", todo="see the aggregator's log")
