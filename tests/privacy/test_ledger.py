"""The ledger: a charge is on disk before it counts as made, and the cap holds."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import EVALUATION, MECHANISM, Cap, Charge, Ledger
from fedward.privacy.privacy_errors import (
    AnotherModel,
    PlanChanged,
    PopulationChanged,
    PrivacyError,
    RoundIsOver,
)
from fedward.study.errors import BudgetError, FedwardError
from tests.privacy.charges import DELTA, ONE, STEPS, charge, cost, rounds, rows, spent
from tests.privacy.conftest import fast_folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a new ledger may go."""
    return tmp_path / "state" / "ledger.sqlite"


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


# --- The total ------------------------------------------------------------------------------------


def test_the_total_is_composed_over_all_studies_and_runs_on_a_data_set(path: Path) -> None:
    """Composed, never added up."""
    ledger = Ledger(path)
    other = SampledGaussian(2.0, 0.05, 30)
    charge(ledger, study="a")
    charge(ledger, study="b", steps=other)
    charge(ledger, study="b", run="run-2")

    assert spent(ledger) == cost(STEPS._replace(steps=40), other)
    assert spent(ledger) < 0.9 * (2 * cost(STEPS) + cost(other))


def test_two_data_sets_are_counted_apart(path: Path) -> None:
    ledger = Ledger(path)
    more = STEPS._replace(steps=70)
    charge(ledger, 1, data="eyes")
    charge(ledger, 2, run="run-2", data="hearts", steps=more)
    charge(ledger, 3, data="eyes")

    assert spent(ledger, data="eyes") == cost(STEPS._replace(steps=40))
    assert spent(ledger, data="hearts") == cost(more)
    assert spent(ledger, data="lungs") == 0.0


def test_a_study_can_be_counted_by_itself(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1, study="a")
    charge(ledger, 2, study="b", steps=STEPS._replace(steps=70))
    charge(ledger, 3, study="a", data="hearts")

    assert spent(ledger, study="a") == cost(STEPS)
    assert spent(ledger, study="c") == 0.0


def test_epsilon_is_said_at_the_delta_and_by_the_accountant_that_are_asked_for(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger)

    for delta in (1e-3, 1e-9):
        for accountant in ("rdp", "prv"):
            found = ledger.epsilon(data="data", delta=delta, accountant=accountant)
            assert found == epsilon_of([STEPS], delta, accountant)


def test_charging_the_same_round_again_costs_again(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    charge(ledger, 1)

    assert spent(ledger) == cost(STEPS._replace(steps=40))


# --- The cap --------------------------------------------------------------------------------------


def test_a_charge_above_the_cap_is_refused_with_nothing_written(path: Path) -> None:
    ledger = Ledger(path)
    one, two = cost(STEPS), cost(STEPS._replace(steps=40))
    cap = (one + two) / 2
    charge(ledger, 1, cap=cap)
    before = path.read_bytes()

    with pytest.raises(BudgetError) as caught:
        charge(ledger, 2, cap=cap)

    assert path.read_bytes() == before
    for part in (f"{two:.3g}", f"{cap:g}", f"{one:.3g}", "round 2"):
        assert part in caught.value.line()


def test_a_charge_may_reach_the_cap_and_not_pass_it(path: Path) -> None:
    ledger = Ledger(path)

    charge(ledger, cap=cost(STEPS))

    with pytest.raises(BudgetError):
        charge(ledger, 2, cap=cost(STEPS))


def test_a_smaller_charge_is_taken_after_a_refusal(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(BudgetError):
        charge(ledger, steps=STEPS._replace(steps=200), cap=cost(STEPS))

    charge(ledger, steps=STEPS._replace(steps=2), cap=cost(STEPS))

    assert len(rows(path)) == 1


def test_other_studies_charges_count_against_the_cap(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, study="another")

    with pytest.raises(BudgetError):
        charge(ledger, study="mine", cap=cost(STEPS))


def test_other_data_sets_charges_do_not(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1, data="hearts", steps=STEPS._replace(steps=500))

    charge(ledger, 2, run="run-2", data="eyes", cap=cost(STEPS))

    assert rounds(path) == [1, 2]


def test_the_cap_is_at_the_hospitals_delta_and_not_at_the_studys(path: Path) -> None:
    """A study with a generous delta would seem to cost little."""
    ledger = Ledger(path)
    generous = replace(ONE, delta=1e-2)
    seems, costs = (epsilon_of([STEPS], delta, "rdp") for delta in (1e-2, 1e-7))
    cap = (seems + costs) / 2

    with pytest.raises(BudgetError) as caught:
        ledger.charge(generous, cap=Cap(cap, 1e-7))
    assert f"{costs:.3g}" in caught.value.line()
    assert rows(path) == []
    ledger.charge(generous, cap=Cap(cap, 1e-2))


def test_two_at_once_cannot_both_take_the_last_of_the_budget(path: Path) -> None:
    Ledger(path)
    cap = cost(STEPS._replace(steps=5 * 20))
    outcomes: list[str] = []

    def charge_many(racer: int) -> None:
        ledger = Ledger(path)
        for number in range(5):
            try:
                charge(ledger, number, run=f"run {racer}", cap=cap)
            except BudgetError:
                outcomes.append("refused")
            else:
                outcomes.append("charged")

    threads = [threading.Thread(target=charge_many, args=(racer,)) for racer in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["charged"] * 5 + ["refused"] * 10
    assert len(Ledger(path).entries()) == 5


def test_of_charges_that_are_made_at_once_none_is_lost_and_none_refused(path: Path) -> None:
    Ledger(path)

    def charge_many(racer: int) -> None:
        ledger = Ledger(path)
        for number in range(1, 13):
            charge(ledger, number, run=f"run {racer}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(charge_many, range(4)))

    charged = {(entry.charge.run, entry.charge.round) for entry in Ledger(path).entries()}
    assert len(charged) == len(rows(path)) == 4 * 12


@pytest.mark.parametrize(
    "steps",
    [
        SampledGaussian(1.0, 0.1, 0),
        SampledGaussian(1.0, 0.1, -5),
        SampledGaussian(1.0, 0.0, 5),
        SampledGaussian(1.0, 1.1, 5),
        SampledGaussian(-1.0, 0.1, 5),
        SampledGaussian(float("nan"), 0.1, 5),
    ],
)
def test_a_charge_that_cannot_be_is_not_written(steps: SampledGaussian, path: Path) -> None:
    ledger = Ledger(path)

    with pytest.raises(BudgetError):
        charge(ledger, steps=steps)
    assert rows(path) == []
    charge(ledger)


# --- What a run may not become --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "number", "changes"),
    [
        (AnotherModel, 1, {"told": "ff" * 32}),
        (PopulationChanged, 1, {"patients": "ff" * 32}),
        (PopulationChanged, 2, {"patients": "ff" * 32, "told": "ff" * 32}),
        (PopulationChanged, 2, {"patients": "ff" * 32, "data": "other"}),
        (PlanChanged, 1, {"steps": STEPS._replace(noise_multiplier=0.9)}),
        (PlanChanged, 2, {"steps": STEPS._replace(sampling_rate=0.2)}),
        (PlanChanged, 2, {"steps": STEPS._replace(steps=10)}),
    ],
)
def test_a_run_keeps_its_patients_and_a_round_its_question(
    error: type[PrivacyError], number: int, changes: dict[str, Any], path: Path
) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    before = path.read_bytes()

    with pytest.raises(error):
        charge(ledger, number, **changes)
    with pytest.raises(error):
        charge(ledger, number, cap=1e-9, **changes)  # whatever is left of the budget

    assert path.read_bytes() == before
    charge(ledger, 2, told="ff" * 32)


def test_a_round_may_be_charged_again_until_a_later_one_was(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    charge(ledger, 1)  # lost before its answer was kept
    charge(ledger, 3)
    before = path.read_bytes()

    for number in (1, 2):
        with pytest.raises(RoundIsOver):
            charge(ledger, number)

    assert path.read_bytes() == before
    charge(ledger, 1, run="run-2")


@pytest.mark.parametrize("number", [3, 1])
def test_a_run_is_charged_no_oftener_than_it_may_be(number: int, path: Path) -> None:
    ledger = Ledger(path)
    for _ in range(3):
        ledger.charge(replace(ONE, round=number), cap=None, most=3)
    before = path.read_bytes()

    with pytest.raises(BudgetError, match="charged 3 times, and may be 3 times"):
        ledger.charge(replace(ONE, round=3), cap=None, most=3)

    assert path.read_bytes() == before
    ledger.charge(replace(ONE, round=1, run="run-2"), cap=None, most=3)
    ledger.charge(replace(ONE, round=1, study="cd34"), cap=None, most=3)


@pytest.mark.parametrize("change", [{"run": "run-2"}, {"study": "cd34"}])
def test_another_run_has_its_own(change: dict[str, Any], path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)

    charge(ledger, 1, told="ff" * 32, patients="ff" * 32, **change)

    assert rounds(path) == [1, 1]


# --- Noise multiplier of a run --------------------------------------------------------------------


def test_a_run_s_noise_multiplier_is_that_of_its_charges(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, study="a", run="r", steps=STEPS._replace(noise_multiplier=1.25))
    charge(ledger, study="a", run="s", steps=STEPS._replace(noise_multiplier=2.5))
    charge(ledger, study="b", run="r", steps=STEPS._replace(noise_multiplier=4.0))

    assert ledger.noise_multiplier(study="a", run="r") == 1.25
    assert ledger.noise_multiplier(study="a", run="s") == 2.5
    assert ledger.noise_multiplier(study="b", run="r") == 4.0
    assert ledger.noise_multiplier(study="b", run="s") is None


def test_a_noise_multiplier_comes_back_exactly(path: Path) -> None:
    sigma = 1.1000000000000003
    charge(Ledger(path), steps=STEPS._replace(noise_multiplier=sigma))

    assert Ledger(path).noise_multiplier(study="ab12", run="run-1") == sigma


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


# --- Several charges of one question --------------------------------------------------------------

JUDGED = replace(ONE, steps=SampledGaussian(3.0, 1.0, 1), mechanism=EVALUATION)


def test_charges_of_one_question_are_made_together_and_read_back(path: Path) -> None:
    Ledger(path).charge(JUDGED, ONE, cap=None)

    assert [entry.charge for entry in Ledger(path).entries()] == [JUDGED, ONE]
    assert rows(path, "mechanism") == [(EVALUATION,), (MECHANISM,)]
    assert spent(Ledger(path)) == cost(JUDGED.steps, ONE.steps)


def test_if_one_of_them_is_refused_none_is_made(path: Path) -> None:
    ledger = Ledger(path)
    between = (cost(ONE.steps) + cost(JUDGED.steps, ONE.steps)) / 2
    ledger.charge(replace(ONE, run="other", data="other"), cap=None)
    before = path.read_bytes()

    with pytest.raises(BudgetError, match="cap"):
        ledger.charge(JUDGED, ONE, cap=Cap(between, DELTA))
    with pytest.raises(BudgetError, match="may be 0 times"):
        ledger.charge(JUDGED, ONE, cap=None, most_of={MECHANISM: 0})
    with pytest.raises(BudgetError, match="may be 1 times"):
        ledger.charge(JUDGED, ONE, cap=None, most=1)

    assert path.read_bytes() == before
    ledger.charge(ONE, cap=Cap(between, DELTA), most=1, most_of={EVALUATION: 0})


def test_a_mechanism_has_a_number_of_charges_of_its_own(path: Path) -> None:
    ledger = Ledger(path)
    for number in (1, 2):
        round_ = [replace(charge, round=number) for charge in (JUDGED, ONE)]
        ledger.charge(*round_, cap=None, most_of={MECHANISM: 2, EVALUATION: 3}, most=5)

    with pytest.raises(BudgetError, match="may be 2 times"):
        ledger.charge(replace(ONE, round=3), cap=None, most_of={MECHANISM: 2, EVALUATION: 3})
    ledger.charge(replace(JUDGED, round=3), cap=None, most_of={MECHANISM: 2, EVALUATION: 3})


def test_evaluations_are_alike_and_the_rounds_noise_is_not_theirs(path: Path) -> None:
    ledger = Ledger(path)
    ledger.charge(JUDGED, cap=None)
    assert ledger.noise_multiplier(study=ONE.study, run=ONE.run) is None
    ledger.charge(ONE, cap=None)
    assert ledger.noise_multiplier(study=ONE.study, run=ONE.run) == ONE.steps.noise_multiplier

    for changed in (JUDGED, ONE):
        other = replace(changed, round=2, steps=changed.steps._replace(noise_multiplier=2.5))
        with pytest.raises(PlanChanged):
            ledger.charge(other, cap=None)
    with pytest.raises(AnotherModel):
        ledger.charge(replace(JUDGED, told="ff" * 32), cap=None)
    with pytest.raises(PopulationChanged):
        ledger.charge(replace(JUDGED, round=2, patients="ff" * 32), cap=None)
    ledger.charge(replace(JUDGED, round=2), cap=None)
    with pytest.raises(RoundIsOver):
        ledger.charge(ONE, cap=None)
