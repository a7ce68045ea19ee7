"""A public file is the old one or the new one, and nothing is left beside it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedward.privacy.public_file import read_public, write_public
from fedward.study.errors import DataError


def test_a_file_is_written_over_whole(tmp_path: Path) -> None:
    write_public(tmp_path / "a.json", b"old and long")
    write_public(tmp_path / "a.json", b"new")

    assert (tmp_path / "a.json").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_whatever_fails_the_old_file_stays(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_public(tmp_path / "a.json", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if step == "fsync" else Path, step, full)
        with pytest.raises(DataError, match="No space left"):
            write_public(tmp_path / "a.json", b"new")

    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_of_a_large_file_only_so_much_is_read_that_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(1000))

    assert len(read_public(tmp_path / "a", what="thing", largest=10)) == 11


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no thing can be read"):
        read_public(tmp_path / "a", what="thing", largest=10)
    with pytest.raises(DataError, match="No such file"):
        write_public(tmp_path / "no" / "a", b"")
