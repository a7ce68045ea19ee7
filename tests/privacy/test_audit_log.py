"""The audit log: whatever is done to it by hand is noticed, and a crash loses nothing that left."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.privacy.audit_log import AuditLog, BrokenLog, Line, refuse_older, verify
from fedward.privacy.audit_views import Exchange, compare
from fedward.privacy.identity import Identity
from fedward.study.errors import DataError
from tests.privacy.conftest import fast_folder

NORTH, SOUTH = Identity.generate(), Identity.generate()
STUDY = "ab" * 32


def said(number: int, **more: object) -> dict[str, object]:
    return {"study": STUDY, "run": "r", "round": number, "size": 10, "sha256": "cd" * 32, **more}


def filled(path: Path, count: int = 6, identity: Identity = NORTH, **more: object) -> list[bytes]:
    """A log of rounds; its lines as they lie there."""
    log = AuditLog(path, "north", identity)
    for number in range(1, count):
        log.append("train", "out", **said(number, **more))
    log.close()
    return path.read_bytes().splitlines(keepends=True)


def number_of(broken: pytest.ExceptionInfo[BrokenLog]) -> int:
    return int(broken.value.what.split()[1])


def test_what_is_written_is_read_back_line_by_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a", "north", NORTH)
    written = log.append("train", "out", **said(3, refused="BudgetError", epsilon=1.25))
    log.append("train", "in", **said(4, model="ef" * 32))

    lines = verify(tmp_path / "a", NORTH.public, own=True)

    assert [line.entry.kind for line in lines] == ["began", "train", "train"]
    assert lines[1] == written
    assert (lines[1].entry.epsilon, lines[2].entry.model) == (1.25, "ef" * 32)
    assert {line.entry.hospital for line in lines} == {"north"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600
    log.close()


@pytest.mark.parametrize(
    "said_", [{"round": True}, {"size": 1.0}, {"epsilon": 3}, {"study": "x" * (1 << 16)}]
)
def test_a_line_that_could_not_be_read_again_is_not_written(
    tmp_path: Path, said_: dict[str, object]
) -> None:
    log = AuditLog(tmp_path / "a", "north", NORTH)
    before = (tmp_path / "a").read_bytes()

    with pytest.raises(BrokenLog, match="line 2"):
        log.append("train", "in", **said_)
    assert (tmp_path / "a").read_bytes() == before
    log.append("train", "in")
    log.close()
    AuditLog(tmp_path / "a", "north", NORTH).close()


def test_a_log_goes_on_where_it_was(tmp_path: Path) -> None:
    filled(tmp_path / "a", 3)
    log = AuditLog(tmp_path / "a", "north", NORTH)

    assert log.append("train", "out").number == 4
    assert len(verify(tmp_path / "a", NORTH.public, own=True)) == 4
    log.close()


def test_only_one_writer_at_a_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a", "north", NORTH)
    with pytest.raises(DataError, match="another process writes to it"):
        AuditLog(tmp_path / "a", "north", NORTH)
    log.close()
    AuditLog(tmp_path / "a", "north", NORTH).close()


Tamper = Callable[[list[bytes], int, int], list[bytes]]


def changed(lines: list[bytes], at: int, where: int) -> list[bytes]:
    line = bytearray(lines[at])
    place = where % (len(line) - 1)
    line[place] ^= 1
    return [*lines[:at], bytes(line), *lines[at + 1 :]]


def removed(lines: list[bytes], at: int, _where: int) -> list[bytes]:
    return [*lines[:at], *lines[at + 1 :]]


def swapped(lines: list[bytes], at: int, where: int) -> list[bytes]:
    other = (at + 1 + where % (len(lines) - 1)) % len(lines)
    moved = list(lines)
    moved[at], moved[other] = lines[other], lines[at]
    return moved


def inserted(lines: list[bytes], at: int, where: int) -> list[bytes]:
    return [*lines[:at], lines[where % len(lines)], *lines[at:]]


def cut(lines: list[bytes], at: int, where: int) -> list[bytes]:
    return [*lines[:at], lines[at][: 1 + where % (len(lines[at]) - 1)]]


@pytest.mark.parametrize("tamper", [changed, removed, swapped, inserted, cut])
@given(at=st.integers(0, 5), where=st.integers(0, 5000))
def test_whatever_is_done_to_a_line_is_noticed_and_the_first_one_is_named(
    tamper: Tamper, at: int, where: int
) -> None:
    with fast_folder() as folder:
        lines = filled(folder / "a")
        tampered = tamper(lines, at, where)
        first = next(
            (n for n, pair in enumerate(zip(lines, tampered, strict=False), 1) if len({*pair}) > 1),
            min(len(lines), len(tampered)) + 1,
        )
        (folder / "a").write_bytes(b"".join(tampered))

        with pytest.raises(BrokenLog) as broken:
            verify(folder / "a", NORTH.public, own=True)
        assert number_of(broken) == first


@pytest.mark.parametrize("tamper", [changed, removed, swapped, inserted])
@given(at=st.integers(0, 5), where=st.integers(0, 5000))
def test_nothing_is_written_behind_a_log_that_was_changed(
    tamper: Tamper, at: int, where: int
) -> None:
    with fast_folder() as folder:
        lines = filled(folder / "a")
        (folder / "a").write_bytes(b"".join(tamper(lines, at, where)))
        before = (folder / "a").read_bytes()

        with pytest.raises(BrokenLog):
            AuditLog(folder / "a", "north", NORTH)
        assert (folder / "a").read_bytes() == before


def test_a_line_that_was_signed_by_another_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "a", identity=SOUTH)
    with pytest.raises(BrokenLog, match=r"line 1 .* signature"):
        verify(tmp_path / "a", NORTH.public)


def test_a_chain_that_was_computed_anew_without_the_key_is_noticed(tmp_path: Path) -> None:
    """Who can write the file can mend every hash, and cannot sign."""
    north, south = filled(tmp_path / "a"), filled(tmp_path / "b", identity=SOUTH)
    (tmp_path / "a").write_bytes(b"".join(south))
    (tmp_path / "a.head").write_bytes((tmp_path / "b.head").read_bytes())

    assert len(north) == len(south)
    with pytest.raises(BrokenLog, match="line 1 "):
        verify(tmp_path / "a", NORTH.public, own=True)
    with pytest.raises(BrokenLog, match="line 6 "):
        AuditLog(tmp_path / "a", "north", NORTH)


@pytest.mark.parametrize("head", [None, b"", b"{}", b'{"hash":"x","lines":6}', b"[1]"])
def test_a_head_that_is_gone_or_another_is_noticed(tmp_path: Path, head: bytes | None) -> None:
    filled(tmp_path / "a")
    (tmp_path / "a.head").unlink()
    if head is not None:
        (tmp_path / "a.head").write_bytes(head)

    with pytest.raises(BrokenLog, match=r"a\.head"):
        verify(tmp_path / "a", NORTH.public, own=True)
    with pytest.raises(BrokenLog, match=r"a\.head"):
        AuditLog(tmp_path / "a", "north", NORTH)


def test_a_head_that_is_one_line_behind_is_what_a_crash_leaves(tmp_path: Path) -> None:
    filled(tmp_path / "a", 5)
    before = (tmp_path / "a.head").read_bytes()
    log = AuditLog(tmp_path / "a", "north", NORTH)
    log.append("train", "out")
    log.close()
    (tmp_path / "a.head").write_bytes(before)

    assert len(verify(tmp_path / "a", NORTH.public, own=True)) == 6
    AuditLog(tmp_path / "a", "north", NORTH).close()


@given(keep=st.integers(1, 400))
def test_a_torn_last_line_is_kept_aside_and_named_and_the_chain_goes_on(keep: int) -> None:
    with fast_folder() as folder:
        lines = filled(folder / "a", 4)
        torn = lines[-1][: min(keep, len(lines[-1]) - 1)]
        with (folder / "a").open("ab") as file:
            file.write(torn)
        with pytest.raises(BrokenLog, match=r"line 5 .* torn"):
            verify(folder / "a", NORTH.public, own=True)

        log = AuditLog(folder / "a", "north", NORTH)
        log.append("train", "out")
        log.close()

        found = verify(folder / "a", NORTH.public, own=True)
        assert [line.entry.kind for line in found[3:]] == ["train", "torn", "train"]
        assert found[4].entry.size == len(torn)
        assert (folder / "a.torn-5").read_bytes() == torn


def test_a_line_that_the_disk_did_not_take_was_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path / "a", "north", NORTH)
    real = os.write

    def half(file: int, content: bytes) -> int:
        if len(content) < 40:
            raise OSError(28, "No space left on device")
        return real(file, content[:-30])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        with pytest.raises(DataError, match="No space left"):
            log.append("train", "out")
    assert log.append("train", "out").number == 2
    log.close()
    assert len(verify(tmp_path / "a", NORTH.public, own=True)) == 2


def test_an_earlier_copy_shows_that_a_log_was_put_back(tmp_path: Path) -> None:
    """Who has the key can write a whole log anew; a copy kept elsewhere shows it."""
    filled(tmp_path / "a")
    earlier = verify(tmp_path / "a", NORTH.public)
    refuse_older(earlier, earlier[:3])

    filled(tmp_path / "b")
    anew = verify(tmp_path / "b", NORTH.public)
    with pytest.raises(BrokenLog, match="line 1 "):
        refuse_older(anew, earlier)
    with pytest.raises(BrokenLog, match="line 4 "):
        refuse_older(earlier[:3], earlier)


WRITING = """
import os, sys
from pathlib import Path
from fedward.privacy.audit_log import AuditLog
from fedward.privacy.identity import Identity

folder = Path(sys.argv[1])
identity = Identity.load(folder / "identity.pem")
os.write(1, b"ready\\n")
while sys.stdin.readline():
    child = os.fork()
    if child == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        log = AuditLog(folder / "a", "north", identity)
        while True:
            os.write(1, f"{log.append('train', 'out', run='r' * 2000).hash}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"over\\n")
"""


@pytest.mark.slow
def test_forty_kills_at_random_moments_lose_no_line_that_was_written() -> None:
    chance, told = Random(3), []
    with fast_folder() as folder:
        NORTH.save(folder / "identity.pem")
        with subprocess.Popen(
            [sys.executable, "-c", WRITING, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as life:
            assert life.stdout is not None
            assert life.stdin is not None
            assert life.stdout.readline() == "ready\n"
            for _ in range(40):
                life.stdin.write("live\n")
                life.stdin.flush()
                process = int(life.stdout.readline())
                told += [life.stdout.readline().strip() for _ in range(chance.choice([0, 1, 4]))]
                time.sleep(chance.uniform(0, 0.01))
                os.kill(process, signal.SIGKILL)
                while (line := life.stdout.readline()) != "over\n":
                    told.append(line.strip())
            life.stdin.close()
        AuditLog(folder / "a", "north", NORTH).close()

        assert {line.hash for line in verify(folder / "a", NORTH.public, own=True)} >= set(told)
    assert len(told) > 40


def view(folder: Path, name: str, models: dict[int, str], *, study: str = STUDY) -> Path:
    """The log of a hospital that answered these rounds."""
    log = AuditLog(folder / name, name, NORTH)
    for number, model in models.items():
        asked = {"study": study, "run": "run-1", "round": number}
        log.append("train", "in", **asked, model=model)
        log.append("train", "out", **asked)
    log.close()
    return folder / name


def lines_of(*views: Path) -> list[list[Line]]:
    return [verify(path, NORTH.public) for path in views]


def test_two_views_of_an_honest_run_agree(tmp_path: Path) -> None:
    ours = view(tmp_path, "north", {1: "a" * 64, 2: "b" * 64})
    theirs = view(tmp_path, "south", {2: "b" * 64, 3: "c" * 64})

    found = compare(*lines_of(ours, theirs))

    assert found.contradictions == ()
    assert found.both == (Exchange("run-1", 2, "train"),)
    assert found.ours == (Exchange("run-1", 1, "train"),)
    assert found.theirs == (Exchange("run-1", 3, "train"),)


def test_an_aggregator_that_told_one_hospital_another_model_is_found_out(tmp_path: Path) -> None:
    ours = view(tmp_path, "north", {1: "a" * 64, 2: "b" * 64})
    theirs = view(tmp_path, "south", {1: "a" * 64, 2: "e" * 64})

    (sentence,) = compare(*lines_of(ours, theirs)).contradictions

    assert "round 2 (train)" in sentence
    assert f"north was told {'b' * 12}" in sentence
    assert f"south was told {'e' * 12}" in sentence


def test_a_run_under_two_studies_is_found_out(tmp_path: Path) -> None:
    ours = view(tmp_path, "north", {1: "a" * 64})
    theirs = view(tmp_path, "south", {1: "a" * 64}, study="ef" * 32)

    (sentence,) = compare(*lines_of(ours, theirs)).contradictions
    assert "two studies" in sentence


def test_refusals_are_not_taken_for_contributions(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "n", "north", NORTH)
    log.append("train", "out", run="run-1", round=1, refused="RefusedError")
    log.close()

    (lines,) = lines_of(tmp_path / "n")
    assert compare(lines, lines).both == ()


def test_a_line_says_nothing_that_was_not_asked_for(tmp_path: Path) -> None:
    filled(tmp_path / "a", 2)
    line = json.loads((tmp_path / "a").read_bytes().splitlines()[1])

    assert set(line) == {"after", "entry", "number", "signature"}
    assert set(line["entry"]) == {
        *("at", "direction", "hospital", "kind"),
        *("round", "run", "sha256", "size", "study"),
    }
