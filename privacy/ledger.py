"""What a hospital has spent of its patients' privacy: one SQLite file beside its data.

A charge is on disk before the first gradient of the round is computed, so a crash can waste budget
and never overspend it. Each row carries the hash of the one before it: a row that is changed, taken
out or put in is noticed, and nothing is spent from a broken ledger. The total is always composed
anew from all charges on a data set, over all studies.

Beside a ledger that has charges lies an empty file, `<ledger>.begun`: where it is and the charges
are not, they were lost, and nothing is spent until a person has put them back.
"""

from __future__ import annotations

import hmac
import logging
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, get_args

from fedward.privacy.accounting import Accountant, SampledGaussian, epsilon_of
from fedward.privacy.chain import chain_start, chained
from fedward.privacy.privacy_errors import (
    AnotherModel,
    PlanChanged,
    PopulationChanged,
    RoundIsOver,
)
from fedward.study.errors import BudgetError

MECHANISM = "poisson-subsampled-gaussian"
"""Steps of a round, and what is measured before the first."""

EVALUATION = "gaussian-evaluation"
"""A noised evaluation of everybody: it composes as a step of `MECHANISM` at rate 1.

Composition of other mechanisms than these two is not known here.
"""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS charge (
    id INTEGER PRIMARY KEY,
    data TEXT NOT NULL,
    study TEXT NOT NULL,
    run TEXT NOT NULL,
    round INTEGER NOT NULL,
    told TEXT NOT NULL,
    patients TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    noise_multiplier REAL NOT NULL CHECK (noise_multiplier >= 0),
    sampling_rate REAL NOT NULL CHECK (sampling_rate > 0 AND sampling_rate <= 1),
    steps INTEGER NOT NULL CHECK (steps > 0),
    delta REAL NOT NULL CHECK (delta > 0 AND delta < 1),
    accountant TEXT NOT NULL,
    charged_at TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""
_COLUMNS = (
    "data, study, run, round, told, patients, mechanism, noise_multiplier, sampling_rate, steps,"
    " delta, accountant, charged_at, hash"
)
_LOG = logging.getLogger("fedward.privacy")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_START = chain_start("ledger")


@dataclass(frozen=True)
class Charge:
    """One round's steps, or a noised evaluation, about to be taken.

    Attributes:
        data: Name of the data set.
        study: Digest of the study.
        run: Name of the run.
        round: From 1; 0 is what was measured before the first; those after the last judge.
        told: Digest of what the round asks (its model, what is monitored), hexadecimal.
        patients: Digest of the training patients (with noised evaluation, of all patients) and all
            that they have, under a key that stays at the hospital, hexadecimal.
        steps: Noise multiplier, sampling rate and number of steps.
        delta: The study's.
        accountant: The study's.
        mechanism: Kind of noise: `MECHANISM` or `EVALUATION`.
    """

    data: str
    study: str
    run: str
    round: int
    told: str
    patients: str
    steps: SampledGaussian
    delta: float
    accountant: Accountant
    mechanism: str = MECHANISM


@dataclass(frozen=True)
class Entry:
    """A charge as it stands in the ledger.

    Attributes:
        charge: What was charged.
        charged_at: When, ISO 8601, UTC.
        hash: SHA-256 over the row and the hash before it, hexadecimal.
    """

    charge: Charge
    charged_at: str
    hash: str


@dataclass(frozen=True)
class Cap:
    """What a hospital allows for one data set, over all studies together.

    Attributes:
        epsilon: At most.
        delta: At which epsilon is counted.
    """

    epsilon: float
    delta: float


class Ledger:
    """The charges of one hospital."""

    def __init__(self, path: Path) -> None:
        """Open or create the ledger; only its owner may read it.

        Raises:
            BudgetError: Its charges are gone, or it cannot be used.
        """
        self._path = path
        self._begun = path.with_name(f"{path.name}.begun")
        if self._begun.exists() and not path.exists():
            self._refuse_lost()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=True)
        _keep_from_others(path)
        with self._open() as db:
            db.execute(_SCHEMA)
            charged = db.execute("SELECT 1 FROM charge LIMIT 1").fetchone() is not None
        if charged:
            self._begin()
        elif self._begun.exists():
            self._refuse_lost()

    def charge(
        self,
        *charges: Charge,
        cap: Cap | None,
        most: int | None = None,
        most_of: Mapping[str, int] | None = None,
    ) -> None:
        """Write charges to disk, all of them or none.

        Args:
            charges: What is about to be done, as one question asks it.
            cap: What the total may not pass; None for no cap.
            most: Charges that a run may have in all; None for any number.
            most_of: Charges that it may have of a mechanism; any number of those not named.

        Raises:
            BudgetError: The total would pass the cap, the run has as many charges already as it
                may have, or the chain is broken; nothing is written.
            AnotherModel: The round was charged before, for another question.
            PlanChanged: The run was charged before, for other steps.
            RoundIsOver: A later round of the run was charged before.
            PopulationChanged: The run was charged before, for other patients.
        """
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            for charge in charges:
                entries = _verified(db)
                _refuse_contradiction(entries, charge)
                _refuse_more(most, (most_of or {}).get(charge.mechanism), entries, charge)
                if cap is not None:
                    _refuse_above(cap, entries, charge)
                _insert(db, charge, after=entries[-1].hash if entries else _START)
            db.execute("COMMIT")
        self._begin()

    def noise_multiplier(self, *, study: str, run: str) -> float | None:
        """The noise multiplier of this run's rounds; None before the first was charged."""
        charges = (entry.charge for entry in self.entries())
        of_run = [
            c
            for c in charges
            if (c.study, c.run) == (study, run) and c.round and c.mechanism == MECHANISM
        ]
        return of_run[0].steps.noise_multiplier if of_run else None

    def epsilon(
        self, *, data: str, delta: float, accountant: Accountant, study: str | None = None
    ) -> float:
        """Epsilon of everything charged so far on a data set, at `delta`; of one study if named."""
        events = [
            entry.charge.steps
            for entry in self.entries()
            if entry.charge.data == data and study in {None, entry.charge.study}
        ]
        return epsilon_of(events, delta, accountant)

    def entries(self) -> list[Entry]:
        """Every charge, in the order in which they were made.

        Raises:
            BudgetError: The chain is broken; the first row that does not fit is named.
        """
        with self._open() as db:
            return _verified(db)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            # Never made here: a ledger that is gone is not an empty one.
            name = f"{self._path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(name, timeout=60, isolation_level=None, uri=True)) as db:
                db.execute("PRAGMA synchronous = EXTRA")  # the charge, and that it is whole
                yield db
        except sqlite3.DatabaseError as error:
            raise BudgetError(
                f"the privacy ledger cannot be used ({error})",
                todo="restore it from a backup; without it no budget can be spent",
            ) from None

    def _begin(self) -> None:
        self._begun.touch(mode=0o600, exist_ok=True)

    def _refuse_lost(self) -> NoReturn:
        raise BudgetError(
            "the privacy ledger is gone: rounds were charged to it, and it has none",
            todo="restore it from a backup; only for data that nothing was ever trained on may a "
            f"new one begin, by removing {self._begun.name} too",
            where=str(self._path),
        )


def _keep_from_others(path: Path) -> None:
    """Take the file from everybody but its owner."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & _OTHERS:
        return
    try:
        path.chmod(mode & ~_OTHERS)
    except OSError as error:
        raise BudgetError(
            f"others may read the privacy ledger (mode {mode:o}), and that cannot be changed "
            f"({error.strerror})",
            todo=f"run as its owner: chmod 600 {path}",
            where=str(path),
        ) from None
    _LOG.warning("%s: others could read the privacy ledger (mode %o); now they cannot", path, mode)


def _insert(db: sqlite3.Connection, charge: Charge, *, after: str) -> None:
    sigma, rate, steps = charge.steps
    # As SQLite gives them back: the hash is over their text, and 160 is not 160.0.
    numbers = (float(sigma), float(rate), int(steps), float(charge.delta))
    terms = (charge.mechanism, *numbers, charge.accountant)
    row = (*_fields(charge), *terms, datetime.now(UTC).isoformat())
    marks = ", ".join("?" * (len(row) + 1))
    db.execute(
        f"INSERT INTO charge ({_COLUMNS}) VALUES ({marks})",  # noqa: S608 - constants only
        (*row, chained(after, row)),
    )


def _fields(charge: Charge) -> tuple[str, str, str, int, str, str]:
    return (charge.data, charge.study, charge.run, charge.round, charge.told, charge.patients)


def _verified(db: sqlite3.Connection) -> list[Entry]:
    """All rows, after their hashes were computed anew."""
    before, entries = _START, []
    rows = db.execute(f"SELECT id, {_COLUMNS} FROM charge ORDER BY id")  # noqa: S608
    for number, (identity, *row, found) in enumerate(rows, start=1):
        wanted = chained(before, row)
        if identity != number or not hmac.compare_digest(wanted, str(found)):
            raise BudgetError(
                f"the privacy ledger was changed: row {number} does not follow from the one before",
                todo="find out who did it; restore a backup whose chain verifies",
            )
        before = wanted
        entries.append(_entry(number, row, wanted))
    return entries


def _entry(place: int, row: Sequence[Any], found: str) -> Entry:
    """A row whose hash was right: its columns have the kinds that `charge` gave them."""
    data, study, run, number, told, patients, *terms = row
    mechanism, sigma, rate, steps, delta, accountant, charged_at = terms
    known_mechanisms = (MECHANISM, EVALUATION)
    for name, known in ((mechanism, known_mechanisms), (accountant, get_args(Accountant))):
        if name not in known:
            raise BudgetError(
                f"row {place} of the privacy ledger is of the kind {name!r}, and what it costs "
                "is not known here",
                todo="run the version of fedward that charged it, or a later one",
            )
    event = SampledGaussian(sigma, rate, steps)
    charge = Charge(data, study, run, number, told, patients, event, delta, accountant, mechanism)
    return Entry(charge, charged_at, found)


def _refuse_contradiction(entries: Sequence[Entry], charge: Charge) -> None:
    for entry in entries:
        before = entry.charge
        if (before.study, before.run) != (charge.study, charge.run):
            continue
        if before.patients != charge.patients:
            raise PopulationChanged(
                "the training patients are not those that this run began with",
                todo="start a new run, or put the data back as it was",
            )
        if _kind(before) == _kind(charge) and before.steps != charge.steps:
            raise PlanChanged(
                "noise, sampling rate or steps are not those that this run began with",
                todo="put [limits] declared_patients back as it was, or start a new run",
            )
        if before.round > charge.round:
            raise RoundIsOver(
                f"round {charge.round} is asked for after round {before.round}",
                todo="the aggregator must go on, or begin a new run",
            )
        if before.round == charge.round and before.told != charge.told:
            raise AnotherModel(
                f"round {charge.round} was answered before, for another model or monitor",
                todo="the aggregator must go on to the next round",
            )


def _kind(charge: Charge) -> tuple[str, bool]:
    """Charges of one kind are alike in a run: measuring, the rounds' steps, evaluations."""
    return charge.mechanism, charge.mechanism == MECHANISM and charge.round > 0


def _refuse_more(
    most: int | None, most_alike: int | None, entries: Sequence[Entry], charge: Charge
) -> None:
    of_run = [e for e in entries if (e.charge.study, e.charge.run) == (charge.study, charge.run)]
    alike = [e for e in of_run if e.charge.mechanism == charge.mechanism]
    for charged, allowed in ((len(of_run), most), (len(alike), most_alike)):
        if allowed is not None and charged >= allowed:
            raise BudgetError(
                f"this run was charged {charged} times, and may be {allowed} times",
                todo="find out why its rounds were lost, and start a new run",
            )


def _refuse_above(cap: Cap, entries: Sequence[Entry], charge: Charge) -> None:
    spent = [entry.charge.steps for entry in entries if entry.charge.data == charge.data]
    total = epsilon_of([*spent, charge.steps], cap.delta, charge.accountant)
    if total <= cap.epsilon:
        return
    before = epsilon_of(spent, cap.delta, charge.accountant)
    raise BudgetError(
        f"round {charge.round} would bring epsilon to {total:.3g}, above this hospital's cap of "
        f"{cap.epsilon:g} ({before:.3g} is spent)",
        todo="raise [limits] epsilon in hospital.toml, or ask for a smaller study; "
        "see fedward hospital budget",
    )
