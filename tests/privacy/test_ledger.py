"""The ledger: a charge is on disk before it counts as made, and the cap holds."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Charge, Ledger
from fedward.study.errors import FedwardError, RefusedError

DELTA = 1e-5
STEPS = SampledGaussian(1.0, 0.1, 20)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a new ledger may go."""
    return tmp_path / "state" / "ledger.sqlite"


def charge(
    ledger: Ledger,
    number: int = 1,
    *,
    steps: SampledGaussian = STEPS,
    study: str = "ab12",
    run: str = "run-1",
    cap: float | None = None,
) -> None:
    ledger.charge(Charge(study, run, number, steps), cap=cap, delta=DELTA, accountant="rdp")


def rows(path: Path) -> list[tuple[object, ...]]:
    """What another process would see on disk."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(
            "SELECT study, run, round, noise_multiplier, sampling_rate, steps FROM charge"
        ).fetchall()


def test_a_charge_is_on_disk_when_charging_returns(path: Path) -> None:
    charge(Ledger(path), 7)

    assert rows(path) == [("ab12", "run-1", 7, 1.0, 0.1, 20)]


def test_every_charge_carries_its_time(path: Path) -> None:
    charge(Ledger(path))

    with closing(sqlite3.connect(path)) as db:
        (when,) = db.execute("SELECT charged_at FROM charge").fetchone()
    assert when.endswith("+00:00")


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_may_read_the_ledger(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        charge(Ledger(path))
    finally:
        os.umask(before)

    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}


def test_a_new_ledger_is_empty(path: Path) -> None:
    ledger = Ledger(path)

    assert rows(path) == []
    assert ledger.epsilon(delta=DELTA, accountant="rdp") == 0.0


def test_opening_again_forgets_nothing(path: Path) -> None:
    charge(Ledger(path), 1)
    charge(Ledger(path), 2)

    assert [row[2] for row in rows(path)] == [1, 2]


def test_the_total_is_composed_over_all_studies_and_runs(path: Path) -> None:
    ledger = Ledger(path)
    other = SampledGaussian(2.0, 0.05, 30)
    charge(ledger, study="a")
    charge(ledger, study="b", steps=other)
    charge(ledger, study="b", run="run-2")

    spent = ledger.epsilon(delta=DELTA, accountant="rdp")

    assert spent == epsilon_of([STEPS._replace(steps=40), other], DELTA, "rdp")


def test_charging_the_same_round_again_costs_again(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, 1)
    charge(ledger, 1)

    assert len(rows(path)) == 2


# --- The cap --------------------------------------------------------------------------------------


def test_a_charge_above_the_cap_is_refused_with_nothing_written(path: Path) -> None:
    ledger = Ledger(path)
    one = epsilon_of([STEPS], DELTA, "rdp")
    two = epsilon_of([STEPS._replace(steps=40)], DELTA, "rdp")
    cap = (one + two) / 2
    charge(ledger, 1, cap=cap)
    before = path.read_bytes()

    with pytest.raises(RefusedError) as caught:
        charge(ledger, 2, cap=cap)

    assert path.read_bytes() == before
    assert [row[2] for row in rows(path)] == [1]
    for part in (f"{two:.3g}", f"{cap:g}", f"{one:.3g}", "round 2"):
        assert part in caught.value.line()


def test_a_charge_may_reach_the_cap_and_not_pass_it(path: Path) -> None:
    ledger = Ledger(path)
    one = epsilon_of([STEPS], DELTA, "rdp")

    charge(ledger, cap=one)

    with pytest.raises(RefusedError):
        charge(ledger, cap=one)


def test_a_smaller_charge_is_taken_after_a_refusal(path: Path) -> None:
    ledger = Ledger(path)
    cap = epsilon_of([STEPS], DELTA, "rdp")
    with pytest.raises(RefusedError):
        charge(ledger, steps=STEPS._replace(steps=200), cap=cap)

    charge(ledger, steps=STEPS._replace(steps=2), cap=cap)

    assert len(rows(path)) == 1


def test_other_studies_charges_count_against_the_cap(path: Path) -> None:
    ledger = Ledger(path)
    charge(ledger, study="another")

    with pytest.raises(RefusedError):
        charge(ledger, study="mine", cap=epsilon_of([STEPS], DELTA, "rdp"))


def test_two_at_once_cannot_both_take_the_last_of_the_budget(path: Path) -> None:
    Ledger(path)
    cap = epsilon_of([STEPS._replace(steps=5 * 20)], DELTA, "rdp")
    outcomes: list[str] = []

    def charge_many() -> None:
        ledger = Ledger(path)
        for number in range(5):
            try:
                charge(ledger, number, cap=cap)
            except RefusedError:
                outcomes.append("refused")
            else:
                outcomes.append("charged")

    threads = [threading.Thread(target=charge_many) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(outcomes) == ["charged"] * 5 + ["refused"] * 10
    assert len(rows(path)) == 5


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

    with pytest.raises((FedwardError, sqlite3.IntegrityError)):
        charge(ledger, steps=steps)
    assert rows(path) == []


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


# --- When things go wrong -------------------------------------------------------------------------

CHARGING = """
import sys
from pathlib import Path
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import Charge, Ledger

ledger = Ledger(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    steps = SampledGaussian(1.0, 0.1, 1)
    ledger.charge(Charge("ab", "r", number, steps), cap=None, delta=1e-5, accountant="rdp")
    print(number, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 57])
def test_a_ledger_survives_being_killed_while_charging(path: Path, after: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CHARGING, str(path)], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= after:
                break
        process.send_signal(signal.SIGKILL)
        told = [int(line) for line in process.stdout.read().split("\n")[:-1]]
    last = max([after, *told])

    ledger = Ledger(path)

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    charged = [row[2] for row in rows(path)]
    assert charged == list(range(1, len(charged) + 1))
    assert len(charged) in {last, last + 1}  # the one more was not yet told
    assert ledger.epsilon(delta=DELTA, accountant="rdp") > 0
    charge(ledger, 1000)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 50, b"short"])
def test_a_file_that_is_no_ledger_is_a_typed_error_and_stays_as_it_is(
    content: bytes, path: Path
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)

    with pytest.raises(FedwardError, match="ledger"):
        charge(Ledger(path))
    assert path.read_bytes() == content
