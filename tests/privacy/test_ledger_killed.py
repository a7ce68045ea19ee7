"""A hospital that is killed while it charges has charged whatever it said, and can go on."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import IO

import pytest

from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import Ledger
from tests.privacy.charges import cost, rounds, spent
from tests.privacy.conftest import fast_folder

STEP = SampledGaussian(1.0, 0.1, 1)

CHARGING = """
import os, sys
from dataclasses import replace
from pathlib import Path
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import Cap, Charge, Ledger

path = Path(sys.argv[1])
steps = SampledGaussian(1.0, 0.1, 1)

def charge_on():
    ledger = Ledger(path)
    number = len(ledger.entries())
    while True:
        number += 1
        charge = Charge("data", "ab", "r", number, "m", "p", steps, 1e-5, "rdp")
        ledger.charge(charge, cap=Cap(1e6, 1e-5) if number % 20 == 0 else None)
        os.write(1, f"{number}\\n".encode())

os.write(1, b"ready\\n")
while sys.stdin.readline():  # a process for each line, so that the imports are made once
    child = os.fork()
    if child == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        charge_on()
    os.waitpid(child, 0)
    os.write(1, b"over\\n")
"""


def said_by(life: subprocess.Popen[str], out: IO[str], chance: Random) -> list[int]:
    """Start a process, kill it at some moment, and return the rounds that it said are charged."""
    assert life.stdin is not None
    life.stdin.write("live\n")
    life.stdin.flush()
    process = int(out.readline())
    said = []
    for _ in range(chance.choice([0, 0, 1, 2, 5])):
        said.append(int(out.readline()))
    time.sleep(chance.uniform(0, 0.01))
    os.kill(process, signal.SIGKILL)
    while (line := out.readline()) != "over\n":
        said.append(int(line))
    return said


def assert_whole(path: Path, said: list[int]) -> None:
    """Nothing that was said is missing; one charge more may not have been said yet."""
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    ledger = Ledger(path)
    charged = [entry.charge.round for entry in ledger.entries()]
    assert charged == list(range(1, len(charged) + 1))
    assert set(said) <= set(charged)
    if said:
        assert spent(ledger) >= cost(STEP._replace(steps=len(said)))


@pytest.mark.slow
def test_fifty_kills_at_random_moments_break_no_chain_and_lose_no_charge() -> None:
    chance = Random(7)
    said: list[int] = []
    unsaid = [0]
    with (
        fast_folder() as folder,
        subprocess.Popen(
            [sys.executable, "-c", CHARGING, str(folder / "ledger")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as life,
    ):
        path = folder / "ledger"
        assert life.stdout is not None
        assert life.stdin is not None
        assert life.stdout.readline() == "ready\n"
        for _ in range(50):
            said += said_by(life, life.stdout, chance)
            if path.exists():
                assert_whole(path, said)
                unsaid.append(len(rounds(path)) - len(said))
        life.stdin.close()

    assert len(said) == len(set(said))  # no charge was made twice
    assert len(said) > 100
    assert {after - before for before, after in pairwise(unsaid)} <= {0, 1}  # one for each death


INTERRUPTED = """
import os, sqlite3, sys
from pathlib import Path
from fedward.privacy.accounting import SampledGaussian
from fedward.privacy.ledger import Charge, Ledger

steps = SampledGaussian(1.0, 0.1, 1)
charge = Charge("data", "ab", "r", 1, "m", "p", steps, 1e-5, "rdp")
Ledger(Path(sys.argv[1])).charge(charge, cap=None)
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN IMMEDIATE")
db.execute("UPDATE charge SET steps = 999")
db.execute("CREATE TABLE much AS SELECT zeroblob(100000) AS b")
os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_charge_that_was_interrupted_was_never_made(tmp_path: Path) -> None:
    """What a dead process left beside the file is undone by whoever opens it next."""
    path = tmp_path / "ledger"
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, str(path)], check=False)

    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "ledger-journal").stat().st_size > 0
    assert_whole(path, [1])
    assert spent(Ledger(path)) == cost(STEP)
