"""Which of an aggregator's models may be used, and who said so: one SQLite file beside its runs.

    candidate -> approved -> retired        candidate -> retired

Rows are added and never changed. Each carries the hash of the one before it, and a small file
beside the log knows how many there are, so a row that is changed, taken out, put in or cut off is
noticed, and nothing is read from such a log. Neither proves who a person is: whoever may write to
the folder can write the whole log anew. The last hash, kept elsewhere, shows that too.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from fedward.privacy.chain import chain_start, chained
from fedward.privacy.log_head import check_head, head_of, write_head
from fedward.privacy.roster import is_name
from fedward.study.errors import DataError, FedwardError, OptionError

Stage = Literal["candidate", "approved", "retired"]

LOG = "models.sqlite"
"""In the folder that holds the runs' folders."""

_NEXT: dict[str, tuple[str, ...]] = {
    "": ("candidate",),
    "candidate": ("candidate", "approved", "retired"),
    "approved": ("retired",),
    "retired": (),
}
_SCHEMA = """
CREATE TABLE IF NOT EXISTS change (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    study TEXT NOT NULL,
    model TEXT NOT NULL,
    stage TEXT NOT NULL,
    by TEXT NOT NULL,
    reason TEXT NOT NULL,
    at TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""
_COLUMNS = "run, study, model, stage, by, reason, at, hash"
_START = chain_start("models")
_LONGEST_REASON = 500
_BLOCK = 1 << 20


class BrokenModelLog(FedwardError):  # noqa: N818 - reads as the fact that it states
    """A row of the log of models was changed, is missing or was put in."""


@dataclass(frozen=True)
class Change:
    """One row: a model got to a stage.

    Attributes:
        run: The run's name.
        study: The study's digest.
        model: SHA-256 of the model's file, hexadecimal.
        stage: Since then.
        by: Who says so; empty for the aggregator, which makes candidates by itself.
        reason: Why.
        at: When, ISO 8601, UTC.
        hash: SHA-256 over the row and the hash before it, hexadecimal.
    """

    run: str
    study: str
    model: str
    stage: Stage
    by: str
    reason: str
    at: str
    hash: str

    def sentence(self) -> str:
        """Stage, person, day and reason."""
        return f"{self.stage} by {self.by or 'the aggregator'} on {self.at[:10]}: {self.reason}"


class ModelLog:
    """The log of one aggregator. It is made when the first model is entered."""

    def __init__(self, path: Path) -> None:
        """Take its file; nothing is opened yet."""
        self._path = path

    def changes(self) -> list[Change]:
        """Every row, the oldest first; none if there is no log yet.

        Raises:
            BrokenModelLog: The chain does not fit, or its end is missing.
            DataError: The file cannot be read.
        """
        if not self._is_there():
            return []
        with self._open() as db:
            db.execute("BEGIN")  # until the head was looked at, nobody adds a row
            return self._verified(db)

    def last(self, run: str) -> Change | None:
        """Where a run's model is; None if it is not in the log.

        Raises:
            BrokenModelLog: As `changes`.
            DataError: As `changes`.
        """
        return _last(self.changes(), run)

    def enter(self, run: str, *, study: str, model: str) -> Change:
        """A finished run's model is a candidate from now on; the same one twice is one row.

        Args:
            run: Its name.
            study: The study's digest.
            model: SHA-256 of the model's file, hexadecimal.

        Raises:
            OptionError: A person has decided on the run's model already, and it is another one.
            BrokenModelLog: As `changes`; nothing is written.
            DataError: The disk does not take it.
        """
        if not self._is_there():
            self._make()
        with self._changed() as (db, changes):
            now = _last(changes, run)
            if now is not None and now.model == model:
                return now
            if now is not None and now.stage != "candidate":
                raise OptionError(
                    f"the model of {run} is {now.sentence()}; this one is another",
                    todo="submit the study as a new run",
                )
            return _add(db, changes, (run, study, model, "candidate", "", "the run finished"))

    def decide(self, run: str, stage: Stage, *, by: str, reason: str, model: str | None) -> Change:
        """A person says what becomes of a run's model.

        Args:
            run: Its name.
            stage: `approved` or `retired`.
            by: Who decides, 1 to 100 printable characters.
            reason: Why, 1 to 500 printable characters.
            model: SHA-256 of the model's file as it is now, which an approval is for; None if
                there is none.

        Raises:
            OptionError: It is not in the log, or this is no step from where it is; or person or
                reason cannot be written down.
            DataError: The model that is to be approved is not the one that was entered; or the
                disk does not take it.
            BrokenModelLog: As `changes`; nothing is written.
        """
        _refuse_unsaid(by, reason)
        if not self._is_there():
            _refuse_unknown(run)
        with self._changed() as (db, changes):
            now = _last(changes, run)
            if now is None:
                _refuse_unknown(run)
            if stage == "candidate" or stage not in _NEXT[now.stage]:
                raise OptionError(
                    f"the model of {run} cannot become {stage}: it is {now.sentence()}",
                    todo="see fedward aggregator models",
                )
            if stage == "approved" and model != now.model:
                raise changed(run)
            return _add(db, changes, (run, now.study, now.model, stage, by, reason))

    def _is_there(self) -> bool:
        """Whether there is a log. One that was cut off while it was made has no bytes."""
        if self._path.exists() and self._path.stat().st_size:
            return True
        check_head(self._path, [], _refuse, required=False)
        return False

    def _make(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path.touch(mode=0o600, exist_ok=True)
        except OSError as error:
            raise self._unusable(str(error.strerror)) from None
        with self._open() as db:
            db.execute(_SCHEMA)

    @contextmanager
    def _changed(self) -> Iterator[tuple[sqlite3.Connection, list[Change]]]:
        """Verified rows, to which nobody else adds meanwhile; what is added is then on disk."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db, self._verified(db)
            db.execute("COMMIT")
            rows = db.execute("SELECT id, hash FROM change ORDER BY id DESC LIMIT 1").fetchall()
        try:
            for number, last in rows:
                write_head(self._path, number, last)
        except OSError as error:
            raise self._unusable(str(error.strerror)) from None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            name = f"{self._path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(name, timeout=60, isolation_level=None, uri=True)) as db:
                db.execute("PRAGMA synchronous = EXTRA")
                yield db
        except sqlite3.DatabaseError as error:
            raise self._unusable(str(error)) from None

    def _verified(self, db: sqlite3.Connection) -> list[Change]:
        """All rows, after their hashes were computed anew and their steps followed."""
        before, stages, changes = _START, dict[str, str](), list[Change]()
        rows = db.execute(f"SELECT id, {_COLUMNS} FROM change ORDER BY id")  # noqa: S608 - constant
        for number, (identity, *row, found) in enumerate(rows, start=1):
            before = chained(before, row)
            if identity != number or not hmac.compare_digest(before, str(found)):
                _refuse(number, "it does not follow from the one before")
            if not all(isinstance(field, str) for field in row):
                _refuse(number, "it does not say what a row says")
            change = Change(*[*row, before])
            if change.stage not in _NEXT[stages.get(change.run, "")]:
                _refuse(number, f"{change.run} cannot become {change.stage} there")
            stages[change.run] = change.stage
            changes.append(change)
        check_head(self._path, [c.hash for c in changes], _refuse, required=len(changes) > 1)
        return changes

    def _unusable(self, why: str) -> DataError:
        return DataError(
            f"the log of models cannot be used ({why})",
            todo="look at its owner and the disk; restore it from a backup if it is damaged",
            where=str(self._path),
        )


def stage_of(folder: Path, model: str) -> Change | None:
    """Where a run's model is in the registry around its folder; None if there is none.

    Args:
        folder: Of a finished run.
        model: SHA-256 of the model's file, hexadecimal.

    Raises:
        BrokenModelLog: The registry's log does not fit.
        DataError: It cannot be read, or knows another model of this run.
    """
    folder = folder.resolve()
    log = folder.parent / LOG
    if not (folder / "run.json").is_file() or not (log.exists() or head_of(log).exists()):
        return None
    found = ModelLog(log).last(folder.name)
    if found is not None and found.model != model:
        raise changed(folder.name)
    return found


def digest_of(path: Path) -> str | None:
    """SHA-256 of a model's file, hexadecimal; None if there is no such file.

    Raises:
        DataError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror})", todo="look at its owner", where=str(path)
        ) from None
    return digest.hexdigest()


def changed(run: str) -> DataError:
    """The error for a model's file that is not the one that the log knows."""
    return DataError(
        f"the model's file of {run} is missing, or is not the one that the run finished with",
        todo="find out who changed it; put it back from a backup, or retire the model",
    )


def _add(db: sqlite3.Connection, changes: Sequence[Change], said: tuple[Any, ...]) -> Change:
    before = changes[-1].hash if changes else _START
    row = (*said, datetime.now(UTC).isoformat(timespec="milliseconds"))
    found = chained(before, row)
    db.execute(
        f"INSERT INTO change (id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        (len(changes) + 1, *row, found),
    )
    return Change(*[*row, found])


def _last(changes: Sequence[Change], run: str) -> Change | None:
    return next((change for change in reversed(changes) if change.run == run), None)


def _refuse(number: int, why: str) -> NoReturn:
    raise BrokenModelLog(
        f"row {number} of the log of models does not fit: {why}",
        todo="find out who did it; restore models.sqlite and its head from one backup",
    )


def _refuse_unknown(run: str) -> NoReturn:
    raise OptionError(
        f"there is no model of {run} in the log", todo="see fedward aggregator models"
    )


def _refuse_unsaid(by: str, reason: str) -> None:
    if not is_name(by):
        raise OptionError("--by names nobody", todo="give 1 to 100 printable characters")
    fits = reason == reason.strip() and 1 <= len(reason) <= _LONGEST_REASON and reason.isprintable()
    if not fits:
        raise OptionError("--reason gives none", todo="give 1 to 500 printable characters")
