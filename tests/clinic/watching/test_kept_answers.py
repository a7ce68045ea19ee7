"""Answers that are kept until their labels come: for so long, and so many."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.clinic.watching.folder import About, read
from fedward.clinic.watching.kept_scores import Bounds, KeptScores, digest_of, said_under
from tests.clinic.watching.conftest import Begin, pictures, said_of


def test_answers_are_kept_for_so_long_and_so_many(tmp_path: Path) -> None:
    clock = [1_000_000_000.0]
    path = tmp_path / "scores.sqlite"
    kept = KeptScores(path, Bounds(3, 2.0), now=lambda: clock[0])
    for number in range(5):
        kept.keep([f"id-{number}"], np.array([[0.0, number]]))
    kept.keep(["id-4"], np.array([[0.0, 9.0]]))
    clock[0] += 60
    kept.tidy_when_due()
    found = said_under(path, [f"id-{number}" for number in range(6)])
    clock[0] += 3 * 24 * 3600
    kept.keep(["new"], np.array([[1.0, 2.0]]))
    kept.close()

    assert [None if said is None else said.tolist() for said in found] == [
        *(None, None, [0.0, 2.0], [0.0, 3.0], [0.0, 9.0], None),
    ]
    assert said_under(path, ["id-3", "id-4"]) == [None, None]
    (said,) = said_under(path, ["new"])
    assert said is not None
    assert said.tolist() == [1.0, 2.0]


def there(path: Path, ids: list[str], **how: Any) -> bool:  # noqa: ANN401
    """Whether an answer is kept under each id."""
    return all(said is not None for said in said_under(path, ids, **how))


def test_answers_are_forgotten_by_the_clock_and_old_ones_are_not_looked_at(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fedward.clinic.watching.watch.TIDY", 0.02)
    monkeypatch.setattr("fedward.clinic.watching.watch._SAVE", 0.01)
    watch = begin(keep=Bounds(100, 2.0))
    clock, path, scores = [time.time()], watch.files.scores, watch._scores
    assert scores is not None
    scores._now = lambda: clock[0]
    inputs = pictures(1, 5)
    watch.saw(inputs, said_of(inputs), "one")
    until = time.monotonic() + 10
    while not there(path, ["one"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert there(path, ["one"])
    clock[0] += 3 * 24 * 3600

    def later() -> float:
        return clock[0]

    while there(path, ["one"]) and time.monotonic() < until:
        time.sleep(0.01)
    assert not there(path, ["one"]), "nothing came, and it is still there"
    watch.close()
    with closing(sqlite3.connect(path)) as file, file:  # as if no service had run since
        hour = int(clock[0] // 3600) - 49
        file.execute(
            "INSERT INTO score (id, hour, said) VALUES (?, ?, ?)",
            (digest_of("old"), hour, np.zeros(2).tobytes()),
        )
    assert there(path, ["old"])
    assert not there(path, ["old"], days=2.0, now=later)
    assert there(path, ["old"], days=3.0, now=later)
    about = read(watch.files.about, About)
    assert about is not None
    assert about.kept_days == 2.0


def test_many_kept_answers_do_not_hold_up_the_counting_or_the_end(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = begin(keep=Bounds(200_000, 30))
    assert watch._scores is not None
    watch._scores.keep([f"old {n}" for n in range(100_000)], np.zeros((100_000, 2)))
    told: list[str] = []
    watch._scores._file.set_trace_callback(told.append)
    inputs = pictures(1, 5)
    began = time.monotonic()
    for number in range(2000):
        watch.saw(inputs, said_of(inputs), f"new {number}")
    watch.close(within=60)
    took = time.monotonic() - began

    assert watch.missed == 0
    assert there(watch.files.scores, ["new 0", "new 1999", "old 99999"])
    assert sum(line.startswith("DELETE") for line in told) == 0
    assert sum(line.startswith("COMMIT") for line in told) < 500, "as many as answers"
    assert took < 30
    with closing(sqlite3.connect(watch.files.scores)) as file:
        plan = str(file.execute("EXPLAIN QUERY PLAN DELETE FROM score WHERE hour < 9").fetchall())
    assert "score_hour" in plan
