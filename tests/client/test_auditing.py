"""The audit log at the daemon: whatever comes, it can be read again, and nothing passes it by."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Message

from fedward.client.auditing import LOG, Auditing
from fedward.client.happenings import Asked, Leaving, NotLogged
from fedward.client.letter import Letter, pack, unpack
from fedward.privacy.audit_log import AuditLog, Line, verify
from fedward.privacy.identity import Identity
from fedward.study.messages import TRAIN
from tests.client.test_daemon import Play, letter

NORTH = Identity.generate()
ASKED = Asked(TRAIN, "ab" * 32, "run-1", 3, 1000, "cd" * 32, "ef" * 32)
Terms = Mapping[str, str | int | float | bool | bytes | list[int]]


class Desk:
    """A hospital's audit log behind a daemon."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG
        self.log = AuditLog(self.path, "north", NORTH)
        self.listener = Auditing(self.log, "data", folder)

    def lines(self) -> list[Line]:
        """All of them, proved; then the log is opened again, as by the next daemon."""
        found = verify(self.path, NORTH.public, own=True)
        self.log.close()
        self.log = AuditLog(self.path, "north", NORTH)
        self.listener = Auditing(self.log, "data", self.path.parent)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def saying(terms: Terms) -> Letter:
    asked: object = unpack(letter())
    assert isinstance(asked, Message)
    asked.content["terms"] = ConfigRecord(dict(terms))
    return pack(asked)


HOSTILE: dict[str, Terms] = {
    "a round that is true": {"round": True},
    "a round below 0": {"round": -1},
    "a round beyond every number": {"round": 2**40},
    "a round with a point": {"round": 1.5},
    "texts without end": {"study": "s" * 200_000, "run": "r" * 200_000},
    "lines in a text": {"study": 'a\n{"after":"x"}\n', "run": "\x00\x1b[2J\u202e\u2028"},
    "no texts": {"study": b"\xff\xfe", "run": [1, 2], "round": [3]},
    "nothing": {},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_whatever_a_message_says_the_log_can_be_read_again(what: str, desk: Desk) -> None:
    play = Play([saying(HOSTILE[what]), letter(2)])
    play.daemon._listeners = (desk.listener, play.happened.append)

    names = play.run()

    assert names.count("Answered") == 2
    lines = desk.lines()
    assert [line.entry.direction for line in lines] == ["own", "in", "out", "in", "out"]
    hostile, honest = lines[1].entry, lines[3].entry
    assert hostile.round == 0
    assert (hostile.study + hostile.run).isprintable()
    assert len(hostile.study + hostile.run) <= 400
    assert (honest.round, honest.run) == (2, "run-1")


@pytest.mark.parametrize("name", ["fsync", "replace", "write"])
def test_a_full_disk_is_no_error_of_the_daemon_s_and_leaves_the_log_whole(
    name: str, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.listener(ASKED)
    before = desk.path.read_bytes()

    def full(*given: object) -> int:
        if name == "write" and isinstance(given[1], bytes):
            write(desk.log._file, given[1][: len(given[1]) // 2])  # half of a line is there
        raise OSError(errno.ENOSPC, "No space left on device")

    write = os.write
    with monkeypatch.context() as disk:
        disk.setattr(os, name, full)
        for _ in range(3):
            with pytest.raises(NotLogged, match="No space left"):
                desk.listener(Leaving(ASKED, 7, "ab" * 32, ""))
    assert desk.path.read_bytes() == before

    desk.listener(Leaving(ASKED, 7, "ab" * 32, ""))
    assert [line.entry.direction for line in desk.lines()] == ["own", "in", "out"]


def test_half_a_line_that_cannot_be_taken_away_at_once_is_taken_away_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", broken)
        disk.setattr(os, "ftruncate", broken)
        with pytest.raises(NotLogged, match="Input/output error"):
            desk.listener(ASKED)
        with pytest.raises(NotLogged):
            desk.listener(ASKED)

    desk.listener(ASKED)
    assert [line.entry.direction for line in desk.lines()] == ["own", "in"]


def test_the_daemon_holds_a_message_while_the_real_log_cannot_be_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, failures = os.fsync, [OSError(errno.ENOSPC, "No space left on device")] * 5

    def sometimes(file: int) -> None:
        if failures:
            raise failures.pop()
        sync(file)

    monkeypatch.setattr(os, "fsync", sometimes)
    play = Play([letter(1)])
    play.daemon._listeners = (desk.listener, play.happened.append)

    assert play.run() == ["Connected", "Held", "Asked", "Leaving", "Answered", "Stopped"]
    assert [line.entry.direction for line in desk.lines()] == ["own", "in", "out"]
