"""The journal forgets nothing that it was told: not when closed, killed or raced for."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.journal import Journal
from fedward.privacy.protocol_errors import BadRequest, Replayed
from tests.privacy.conftest import fast_folder

TOLD = b"t" * 32
INVITED = b"i" * 32
V, OTHER_V = ("a", "b", "c"), ("a", "b", "d")


def context_of(run: str, server_round: int, attempt: int) -> bytes:
    return hashlib.sha256(f"{run} {server_round} {attempt}".encode()).digest()


def begin(
    journal: Journal,
    attempt: int,
    *,
    run: str = "r",
    server_round: int = 1,
    told: bytes = TOLD,
    invited: bytes = INVITED,
) -> bytes:
    context = context_of(run, server_round, attempt)
    journal.begin(
        run=run,
        server_round=server_round,
        attempt=attempt,
        context=context,
        told=told,
        invited=invited,
    )
    return context


def refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except Replayed:
        return True
    return False


# --- Rules ----------------------------------------------------------------------------------------


def test_attempts_count_up_within_a_round(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 2)

    for attempt in (1, 2):
        with pytest.raises(Replayed, match=f"attempt {attempt} of round 1"):
            begin(journal, attempt)
    begin(journal, 7)
    for attempt in range(8):
        with pytest.raises(Replayed):
            begin(journal, attempt)
    begin(journal, 8)


def test_rounds_and_runs_count_for_themselves(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 5)

    begin(journal, 1, server_round=2)
    begin(journal, 1, run="another")
    with pytest.raises(Replayed):
        begin(journal, 5)
    with pytest.raises(Replayed):
        begin(journal, 1, run="another")


def test_what_was_never_begun_is_not_unmasked(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 1)

    with pytest.raises(BadRequest, match="never masked here"):
        journal.unmask(context=context_of("r", 1, 2), survivors=V)
    with pytest.raises(BadRequest):
        journal.unmask(context=b"", survivors=V)


def test_an_attempt_is_unmasked_for_the_same_survivors_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    context = begin(journal, 1)
    journal.unmask(context=context, survivors=V)

    for survivors in (OTHER_V, (), V[:2], (*V, "d")):
        with pytest.raises(Replayed, match="round 1"):
            journal.unmask(context=context, survivors=survivors)
    journal.unmask(context=context, survivors=V)
    journal.unmask(context=context, survivors=tuple(reversed(V)))


def test_a_round_is_about_one_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 1)

    with pytest.raises(Replayed, match="another model"):
        begin(journal, 2, told=b"another" * 4)
    begin(journal, 2)
    begin(journal, 1, server_round=2, told=b"another" * 4)


def test_a_round_is_over_the_same_hospitals_in_all_its_attempts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 1)

    with pytest.raises(Replayed, match="round 1 was asked before, over other hospitals"):
        begin(Journal(tmp_path / "journal"), 2, invited=b"other" * 6)
    begin(journal, 2)
    begin(journal, 3)
    begin(journal, 1, server_round=2, invited=b"other" * 6)
    begin(journal, 1, run="another", invited=b"other" * 6)


def test_a_round_that_is_over_is_not_asked_for_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 1, server_round=3)
    begin(journal, 1, server_round=5)

    for number in (1, 3, 4):
        with pytest.raises(Replayed, match=f"round {number} is over: round 5 was begun"):
            begin(journal, 2, server_round=number)
        with pytest.raises(Replayed, match="is over"):
            journal.check(run="r", server_round=number, attempt=2, told=TOLD, invited=INVITED)
    begin(journal, 1, run="another")


def test_a_check_says_what_begin_would_say_and_uses_nothing_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 2)
    terms = {"run": "r", "server_round": 1, "told": TOLD, "invited": INVITED}

    for wrong in ({"attempt": 2}, {"attempt": 3, "told": b"x"}, {"attempt": 3, "invited": b"x"}):
        with pytest.raises(Replayed):
            journal.check(**{**terms, **wrong})  # type: ignore[arg-type]
    journal.check(**terms, attempt=3)  # type: ignore[arg-type]
    journal.check(**terms, attempt=3)  # type: ignore[arg-type]
    begin(journal, 3)


def test_it_remembers_what_was_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    begin(journal, 2, told=b"another" * 4)

    assert journal.told(run="r", server_round=1, attempt=2) == b"another" * 4
    for run, server_round, attempt in (("r", 1, 1), ("r", 2, 2), ("s", 1, 2)):
        with pytest.raises(BadRequest, match="never masked here"):
            journal.told(run=run, server_round=server_round, attempt=attempt)


def test_one_round_has_one_set_of_survivors(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    first, second, third = (begin(journal, attempt) for attempt in (1, 2, 3))
    journal.unmask(context=second, survivors=V)

    for context in (first, third):
        with pytest.raises(Replayed):
            journal.unmask(context=context, survivors=OTHER_V)
        with pytest.raises(Replayed):
            journal.unmask(context=context, survivors=V[:2])
        journal.unmask(context=context, survivors=tuple(reversed(V)))


def test_another_round_or_run_has_its_own_survivors(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    contexts = [
        begin(journal, 1),
        begin(journal, 1, server_round=2),
        begin(journal, 1, run="another"),
    ]
    for at, context in enumerate(contexts):
        journal.unmask(context=context, survivors=("a", f"b{at}"))


@pytest.mark.parametrize(
    ("one", "other"), [(("a", "b"), ("a, b",)), (('a"', "b"), ("a", '"b')), (("a",), ("a", "a"))]
)
def test_names_do_not_run_together(
    one: tuple[str, ...], other: tuple[str, ...], tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    first, second = begin(journal, 1), begin(journal, 2)
    journal.unmask(context=first, survivors=one)

    with pytest.raises(Replayed):
        journal.unmask(context=second, survivors=other)


Step = tuple[str, int, int, int, int]
STEPS = st.tuples(
    st.sampled_from(["begin", "unmask", "reopen"]),
    st.integers(1, 2),  # round
    st.integers(1, 4),  # attempt
    st.integers(1, 2),  # what was told
    st.integers(1, 2),  # survivors
)


@given(st.lists(STEPS, max_size=25))
def test_any_sequence_is_answered_as_the_rules_say(steps: list[Step]) -> None:
    begun: dict[tuple[int, int], int] = {}
    unmasked: dict[int, int] = {}
    with fast_folder() as folder:
        journal = Journal(folder / "journal")
        for what, server_round, attempt, model, survivors in steps:
            at = (server_round, attempt)
            if what == "reopen":
                journal = Journal(folder / "journal")
            elif what == "begin":
                before = {a: told for (r, a), told in begun.items() if r == server_round}
                wrong = any(a >= attempt or told != model for a, told in before.items())
                wrong = wrong or any(r > server_round for r, _ in begun)
                given = bytes([model]) * 32
                again = partial(begin, journal, attempt, server_round=server_round, told=given)
                assert wrong == refused(again)
                if not wrong:
                    begun[at] = model
            elif at not in begun:
                with pytest.raises(BadRequest):
                    journal.unmask(context=context_of("r", *at), survivors=[f"{survivors}"])
            else:
                wrong = unmasked.get(server_round, survivors) != survivors
                context, named = context_of("r", *at), [f"{survivors}"]
                say = partial(journal.unmask, context=context, survivors=named)
                assert wrong == refused(say)
                if not wrong:
                    unmasked[server_round] = survivors


# --- On disk --------------------------------------------------------------------------------------


def test_it_remembers_when_opened_again(tmp_path: Path) -> None:
    context = begin(Journal(tmp_path / "journal"), 1)
    again = Journal(tmp_path / "journal")
    with pytest.raises(Replayed):
        begin(again, 1)
    again.unmask(context=context, survivors=V)

    once_more = Journal(tmp_path / "journal")
    with pytest.raises(Replayed):
        once_more.unmask(context=context, survivors=OTHER_V)
    second = begin(once_more, 2)
    with pytest.raises(Replayed):
        once_more.unmask(context=second, survivors=OTHER_V)


def test_a_refusal_changes_nothing_and_holds_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = Journal(file)
    context = begin(journal, 3)
    before = file.read_bytes()

    for _ in range(3):
        with pytest.raises(Replayed):
            begin(journal, 2)
        with pytest.raises(BadRequest):
            journal.unmask(context=b"?" * 32, survivors=V)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["journal"]
    Journal(file).unmask(context=context, survivors=V)


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_only_its_owner_may_read_it(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        file = tmp_path / "not" / "there" / "journal"
        journal = Journal(file)
        begin(journal, 1)
        with journal._transaction() as db:
            db.execute("UPDATE attempt SET survivors = '[]'")
            modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.iterdir()}
    finally:
        os.umask(old)

    assert modes == {"journal": 0o600, "journal-journal": 0o600}  # while it is being written, too
    assert file.stat().st_mode & 0o777 == 0o600


def test_what_was_interrupted_was_never_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    context = begin(journal, 1)

    def interrupted() -> None:
        with journal._transaction() as db:
            db.execute("UPDATE attempt SET survivors = '[]'")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    journal.unmask(context=context, survivors=V)


def test_it_waits_for_the_disk(tmp_path: Path) -> None:
    """Power may fail as well as a process; SQLite's EXTRA is 3: FULL may lose the last."""
    with Journal(tmp_path / "journal")._transaction() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    with Journal(tmp_path / "pretended", durable=False)._transaction() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (0,)


def test_it_holds_neither_updates_nor_secrets(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.unmask(context=begin(journal, 1), survivors=V)
    with sqlite3.connect(tmp_path / "journal") as db:
        rows = db.execute("SELECT * FROM attempt").fetchall()
    db.close()

    assert rows == [("r", 1, 1, context_of("r", 1, 1), TOLD, INVITED, '["a", "b", "c"]')]


# --- Killed ---------------------------------------------------------------------------------------

BUSY = """
import hashlib, os, sys
from pathlib import Path
from fedward.privacy.journal import Journal

journal = Journal(Path(sys.argv[1]))
for number in range(1, 100_000):
    context = hashlib.sha256(f"r {number} 1".encode()).digest()
    journal.begin(
        run="r", server_round=number, attempt=1, context=context, told=b"t" * 32, invited=b"i"
    )
    os.write(1, f"begun {number}\\n".encode())
    journal.unmask(context=context, survivors=["a", "b"])
    os.write(1, f"unmasked {number}\\n".encode())
"""


@pytest.mark.parametrize("lines", [1, 2, 7, 16, 33])
def test_kill_9_forgets_nothing_that_was_said(lines: int, tmp_path: Path) -> None:
    """Killed at once after a line, which falls anywhere in what comes next."""
    file = tmp_path / "journal"
    command = [sys.executable, "-c", BUSY, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as busy:
        assert busy.stdout is not None
        said = [busy.stdout.readline() for _ in range(lines)]
        busy.send_signal(signal.SIGKILL)
        said += busy.stdout.readlines()
    assert busy.returncode == -signal.SIGKILL

    journal = Journal(file)
    begun = [int(line.split()[1]) for line in said if line.startswith("begun")]
    unmasked = [int(line.split()[1]) for line in said if line.startswith("unmasked")]
    assert len(begun) + len(unmasked) >= lines
    for number in begun:
        assert refused(partial(begin, journal, 1, server_round=number))
    for number in unmasked:
        context = context_of("r", number, 1)
        assert refused(partial(journal.unmask, context=context, survivors=("a", "c")))
    begin(journal, 1, server_round=max(begun) + 2)  # and it can be written to


# --- Raced for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [True, False])
def test_of_threads_that_begin_one_attempt_one_wins(shared: bool) -> None:
    racers = 8
    with fast_folder() as folder, ThreadPoolExecutor(racers) as pool:
        one = Journal(folder / "journal")
        start = Barrier(racers, timeout=20)

        def race(racer: int) -> list[bool]:
            journal = one if shared else Journal(folder / "journal")
            won = []
            for number in range(1, 11):
                start.wait()
                mine = partial(begin, journal, 1, server_round=number, told=bytes([racer]) * 32)
                won.append(not refused(mine))
            return won

        results = list(pool.map(race, range(racers)))

    assert [sum(won) for won in zip(*results, strict=True)] == [1] * 10


def test_of_threads_that_unmask_one_update_one_set_of_survivors_wins() -> None:
    racers = 8
    with fast_folder() as folder, ThreadPoolExecutor(racers) as pool:
        journal = Journal(folder / "journal")
        contexts = [begin(journal, attempt) for attempt in range(1, racers + 1)]
        start = Barrier(racers, timeout=20)

        def race(racer: int) -> bool:
            start.wait()
            survivors = ["a", f"h{racer}"]
            return not refused(
                partial(journal.unmask, context=contexts[racer], survivors=survivors)
            )

        assert sum(pool.map(race, range(racers))) == 1


RACER = """
import sys
from pathlib import Path
from fedward.privacy.journal import Journal
from fedward.privacy.protocol_errors import Replayed

print("ready", flush=True)
sys.stdin.readline()
journal = Journal(Path(sys.argv[1]))
for number in range(1, 21):
    try:
        journal.begin(
            run="r",
            server_round=number,
            attempt=1,
            context=bytes([number]) * 32,
            told=sys.argv[2].encode(),
            invited=b"i",
        )
        print(number, flush=True)
    except Replayed:
        pass
"""


def test_of_processes_that_begin_one_attempt_one_wins() -> None:
    """They make the journal, too, all at once."""
    with fast_folder() as folder:
        command = [sys.executable, "-c", RACER, str(folder / "journal")]
        racers = [
            subprocess.Popen(
                [*command, f"racer {at}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for at in range(4)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        said = [racer.communicate(timeout=60) for racer in racers]

    assert [err for _, err in said] == [""] * 4
    won = [int(number) for out, _ in said for number in out.split()]
    assert sorted(won) == list(range(1, 21))
