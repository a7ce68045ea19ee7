"""The ledger's file: a charge is on disk before it counts as made, and what is gone is noticed."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import MECHANISM, Charge, Ledger
from fedward.privacy.privacy_errors import AnotherModel, PlanChanged, RoundIsOver
from fedward.study.errors import BudgetError, FedwardError
from tests.privacy.charges import charge, rounds, rows, spent
from tests.privacy.conftest import fast_folder


def test_a_charge_is_on_disk_when_charging_returns(path: Path) -> None:
    charge(Ledger(path), 7)

    columns = "data, study, run, round, told, patients, mechanism, accountant"
    numbers = "noise_multiplier, sampling_rate, steps, delta"
    assert rows(path, columns) == [
        ("data", "ab12", "run-1", 7, "0d" * 32, "9a" * 32, MECHANISM, "rdp")
    ]
    assert rows(path, numbers) == [(1.0, 0.1, 20, 1e-5)]


def test_it_waits_for_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power may fail as well as a process: with FULL the last charge could be undone by that."""
    said: list[str] = []
    connect = sqlite3.connect

    def watched(*args: object, **more: object) -> sqlite3.Connection:
        db = connect(*args, **more)  # type: ignore[call-overload]
        db.set_trace_callback(said.append)
        assert isinstance(db, sqlite3.Connection)
        return db

    monkeypatch.setattr(sqlite3, "connect", watched)
    charge(Ledger(path))

    writing = [line.split()[0] for line in said if not line.startswith("SELECT")]
    assert said.count("PRAGMA synchronous = EXTRA") == 2
    assert writing[-4:] == ["PRAGMA", "BEGIN", "INSERT", "COMMIT"]


def test_every_charge_carries_its_time(path: Path) -> None:
    charge(Ledger(path))

    (entry,) = Ledger(path).entries()
    when = datetime.fromisoformat(entry.charged_at)
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=5)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_ledger(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        charge(Ledger(path))
    finally:
        os.umask(before)

    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"ledger.sqlite": 0o600, "ledger.sqlite.begun": 0o600}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o606, 0o660])
def test_a_ledger_that_others_may_read_is_taken_from_them(
    mode: int, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    charge(Ledger(path))
    path.chmod(mode)

    with caplog.at_level(logging.WARNING):
        ledger = Ledger(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert f"mode {mode:o}" in caplog.text
    charge(ledger, 2)


def test_where_it_cannot_be_taken_from_them_it_is_not_used(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    charge(Ledger(path))
    path.chmod(0o644)

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", forbidden)
    with pytest.raises(BudgetError, match="others may read the privacy ledger"):
        Ledger(path)


def test_a_new_ledger_is_empty(path: Path) -> None:
    ledger = Ledger(path)

    assert rows(path) == []
    assert ledger.entries() == []
    assert spent(ledger) == 0.0


def test_opening_again_forgets_nothing(path: Path) -> None:
    charge(Ledger(path), 1)
    charge(Ledger(path), 2)

    assert rounds(path) == [1, 2]


text = st.text(st.characters(codec="utf-8"), max_size=9)
charges = st.builds(
    Charge,
    data=text,
    study=text,
    run=text,
    round=st.integers(1, 2**31),
    told=text,
    patients=st.just("everybody"),
    steps=st.builds(
        SampledGaussian,
        noise_multiplier=st.floats(1e-6, 1e6),
        sampling_rate=st.floats(1e-9, 1),
        steps=st.integers(1, 10**6),
    ),
    delta=st.floats(1e-300, 0.999),
    accountant=st.sampled_from(["prv", "rdp"]),
)


@given(st.lists(charges, max_size=4))
def test_every_charge_comes_back_as_it_was_made_and_in_order(made: list[Charge]) -> None:
    """Whatever a run is called, and to the last bit: the hash of each row is of what comes back."""
    expected = []
    with fast_folder() as folder:
        for one in made:
            try:
                Ledger(folder / "ledger").charge(one, cap=None)
            except (AnotherModel, PlanChanged, RoundIsOver):
                continue
            expected.append(one)
        entries = Ledger(folder / "ledger").entries()

    assert [entry.charge for entry in entries] == expected
    assert len({entry.hash for entry in entries}) == len(entries)


# --- A ledger that is gone ------------------------------------------------------------------------


def emptied(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM charge")
        db.commit()


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b""), emptied])
def test_a_ledger_whose_charges_are_gone_does_not_begin_anew(
    lose: Callable[[Path], object], path: Path
) -> None:
    charge(Ledger(path))
    kept = path.read_bytes()
    lose(path)
    there = path.exists()

    for _ in range(2):
        with pytest.raises(BudgetError, match="the privacy ledger is gone") as caught:
            Ledger(path)
        assert path.exists() == there  # none is made
    assert "restore it from a backup" in caught.value.todo
    assert "ledger.sqlite.begun" in caught.value.todo

    path.write_bytes(kept)
    assert rounds(path) == [1]
    charge(Ledger(path), 2)


def test_a_person_may_let_it_begin_anew(path: Path) -> None:
    charge(Ledger(path))
    path.unlink()
    path.with_name("ledger.sqlite.begun").unlink()

    charge(Ledger(path), 5)

    assert rounds(path) == [5]


def test_a_ledger_that_goes_while_it_is_used_is_noticed_at_once_and_afterwards(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)
    path.unlink()

    with pytest.raises(BudgetError, match="ledger cannot be used"):
        charge(ledger, 2)
    assert not path.exists()
    with pytest.raises(BudgetError, match="is gone"):
        Ledger(path)


def test_a_ledger_without_charges_may_go(path: Path) -> None:
    Ledger(path)
    path.unlink()

    charge(Ledger(path))


def test_a_ledger_that_was_charged_before_there_were_marks_gets_one(path: Path) -> None:
    """And one whose process died between the charge and the mark."""
    charge(Ledger(path))
    path.with_name("ledger.sqlite.begun").unlink()
    Ledger(path)
    path.unlink()

    with pytest.raises(BudgetError, match="is gone"):
        Ledger(path)


# --- Files that are no ledger ---------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 50, b"short"])
def test_a_file_that_is_no_ledger_is_a_typed_error_and_stays_as_it_is(
    content: bytes, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(FedwardError, match="ledger"):
        charge(Ledger(path))
    assert path.read_bytes() == content


def test_a_ledger_of_an_earlier_format_is_a_typed_error_and_stays_as_it_is(path: Path) -> None:
    """Its charges were of records: they cannot be composed with those of patients."""
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE charge (id INTEGER PRIMARY KEY, study TEXT, run TEXT, round INTEGER,"
            " noise_multiplier REAL, sampling_rate REAL, steps INTEGER, charged_at TEXT)"
        )
        db.execute("INSERT INTO charge (study, run, round) VALUES ('ab12', 'run-1', 1)")
        db.commit()
    before = path.read_bytes()

    with pytest.raises(BudgetError, match="ledger"):
        charge(Ledger(path))
    assert path.read_bytes() == before
