"""A file is read in the state it was keyed by, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedward.client.data.decoded import state_of
from fedward.client.data.unchanged import unchanged
from fedward.study.errors import DataError


@pytest.mark.parametrize("size", [0, 5, 2**21])
def test_a_file_is_read(size: int, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * size)

    with unchanged(file, state_of(file)) as content:
        assert content.read() == b"x" * size


def test_a_file_that_was_changed_or_taken_away_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    state = state_of(file)
    file.write_bytes(b"more")

    with pytest.raises(DataError, match="a: was changed"), unchanged(file, state):
        pass
    file.unlink()
    with pytest.raises(DataError, match="a: was changed"), unchanged(file, state):
        pass


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "a"
    os.mkfifo(pipe)

    with pytest.raises(DataError, match="a: is no file"), unchanged(pipe, state_of(pipe)):
        pass
