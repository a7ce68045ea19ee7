"""The service's log: where its lines cannot go, the service goes on all the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fedward.server.diary import Diary


def events(path: Path) -> list[str]:
    return [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_stream_on_a_full_disk_loses_lines_and_nothing_else(tmp_path: Path) -> None:
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it fails too
    diary = Diary(tmp_path / "log.jsonl", full)
    diary.tell("first")
    diary.tell("second")
    diary.close()
    with pytest.raises(OSError, match="space"):
        full.close()

    assert events(tmp_path / "log.jsonl") == ["first", "second"]


@pytest.mark.parametrize("ours", [False, True], ids=["at the other end", "at this end"])
def test_a_stream_that_was_closed_loses_lines_and_nothing_else(
    tmp_path: Path, *, ours: bool
) -> None:
    source, sink = os.pipe()
    stream = os.fdopen(sink, "w", encoding="utf-8", buffering=1)
    os.close(source)
    if ours:
        stream.close()
    diary = Diary(tmp_path / "log.jsonl", stream)
    diary.tell("first")
    diary.tell("second")
    diary.close()
    if not ours:
        with pytest.raises(BrokenPipeError):
            stream.close()

    assert events(tmp_path / "log.jsonl") == ["first", "second"]
