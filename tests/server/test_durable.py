"""Files that several processes replace."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedward.server import run_registry
from fedward.server.durable import alone_in, write_aside
from fedward.server.run_registry import RunFolder, RunRegistry
from tests.server.cut_off import private_study


def at_once(work: Callable[[int], object], times: int) -> None:
    errors: list[BaseException] = []

    def each(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=each, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    contents = [bytes([number]) * (1 << 16) for number in range(8)]

    def work(number: int) -> None:
        for _ in range(10):
            write_aside(path, contents[number])

    at_once(work, 8)

    assert path.read_bytes() in contents
    assert [found.name for found in tmp_path.iterdir()] == ["f"]


def test_what_cannot_be_written_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    write_aside(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_aside(path, b"new")

    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["f"]


def test_two_marks_do_not_lose_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunRegistry(tmp_path).create(private_study(), b"{}", name="run")
    inside: list[int] = []

    def slow(path: Path, content: bytes) -> None:
        inside.append(1)
        assert len(inside) == 1  # between reading and writing there is nobody else
        time.sleep(0.02)
        write_aside(path, content)
        inside.pop()

    monkeypatch.setattr(run_registry, "write_durably", slow)
    at_once(lambda number: RunFolder(run.folder).mark("waiting", str(number)), 8)

    lines = (run.folder / "events.jsonl").read_text("utf-8").splitlines()
    assert sorted(json.loads(line)["reason"] for line in lines) == [str(n) for n in range(8)]


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    order: list[str] = []

    def work(number: int) -> None:
        with alone_in(tmp_path):
            order.append("in")
            time.sleep(0.01)
            order.append("out")

    at_once(work, 4)

    assert order == ["in", "out"] * 4
