"""Charges to make, and a ledger's file as another process sees it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedward.privacy.accounting import SampledGaussian, epsilon_of
from fedward.privacy.ledger import Cap, Charge, Ledger

DELTA = 1e-5
STEPS = SampledGaussian(1.0, 0.1, 20)
ONE = Charge(
    data="data",
    study="ab12",
    run="run-1",
    round=1,
    told="0d" * 32,
    patients="9a" * 32,
    steps=STEPS,
    delta=DELTA,
    accountant="rdp",
)


def charge(
    ledger: Ledger,
    number: int = 1,
    *,
    cap: float | None = None,
    **changes: Any,  # noqa: ANN401
) -> None:
    """Charge a round, under a cap at the delta of all these charges."""
    limit = None if cap is None else Cap(cap, DELTA)
    ledger.charge(replace(ONE, round=number, **changes), cap=limit)


def spent(ledger: Ledger, *, data: str = "data", study: str | None = None) -> float:
    """Epsilon as the ledger says it."""
    return ledger.epsilon(data=data, delta=DELTA, accountant="rdp", study=study)


def cost(*steps: SampledGaussian) -> float:
    """Epsilon of such steps together."""
    return epsilon_of(steps, DELTA, "rdp")


def rows(path: Path, columns: str = "*") -> list[tuple[object, ...]]:
    """What another process would see on disk."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return db.execute(f"SELECT {columns} FROM charge ORDER BY id").fetchall()  # noqa: S608


def rounds(path: Path) -> list[object]:
    """Numbers of the rounds that are charged, in order."""
    return [number for (number,) in rows(path, "round")]
