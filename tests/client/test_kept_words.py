"""A contribution is kept for as long as its round may be repeated, and for its owner alone."""

from __future__ import annotations

import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedward.client.kept_words import KeptWords
from fedward.study.messages import Words
from tests.privacy.conftest import fast_folder

TOLD, ANOTHER = bytes(range(32)), bytes(range(32, 64))
WORDS = np.array([0, 1, 2**31, 2**32 - 1], dtype=np.uint32)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder that is not there yet."""
    return tmp_path / "run"


def test_nothing_is_kept_before_anything_was_written(folder: Path) -> None:
    assert KeptWords(folder).read(1, TOLD, size=4) is None


@given(hnp.arrays(np.uint32, st.integers(0, 50)), st.integers(1, 2**63 - 1))
def test_what_was_written_is_read_again(words: Words, server_round: int) -> None:
    with fast_folder() as folder:
        KeptWords(folder).write(server_round, TOLD, words)
        found = KeptWords(folder).read(server_round, TOLD, size=len(words))

    assert found is not None
    assert found.dtype == np.uint32
    assert np.array_equal(found, words)


def test_it_belongs_to_one_round_and_to_what_was_told_in_it(folder: Path) -> None:
    kept = KeptWords(folder)
    kept.write(2, TOLD, WORDS)

    assert kept.read(1, TOLD, size=4) is None
    assert kept.read(3, TOLD, size=4) is None
    assert kept.read(22, TOLD, size=4) is None
    assert kept.read(2, ANOTHER, size=4) is None


def test_the_next_round_takes_the_place_of_the_last(folder: Path) -> None:
    kept = KeptWords(folder)
    kept.write(1, TOLD, WORDS)
    kept.write(2, ANOTHER, WORDS + np.uint32(1))

    assert kept.read(1, TOLD, size=4) is None
    assert len(list(folder.iterdir())) == 1
    found = kept.read(2, ANOTHER, size=4)
    assert found is not None
    assert np.array_equal(found, WORDS + np.uint32(1))


def test_runs_keep_for_themselves(tmp_path: Path) -> None:
    one, other = KeptWords(tmp_path / "one"), KeptWords(tmp_path / "other")
    one.write(1, TOLD, WORDS)
    other.write(2, TOLD, WORDS)

    assert one.read(1, TOLD, size=4) is not None
    assert other.read(1, TOLD, size=4) is None


def test_what_is_read_may_be_masked_in_place(folder: Path) -> None:
    """A mask is added to the words themselves; what is kept must stay what it was."""
    kept = KeptWords(folder)
    kept.write(1, TOLD, WORDS)
    first = kept.read(1, TOLD, size=4)
    assert first is not None
    first += np.uint32(12345)

    second = kept.read(1, TOLD, size=4)

    assert second is not None
    assert np.array_equal(second, WORDS)


def test_what_was_written_may_be_masked_in_place(folder: Path) -> None:
    words = WORDS.copy()
    kept = KeptWords(folder)
    kept.write(1, TOLD, words)
    words += np.uint32(12345)

    found = kept.read(1, TOLD, size=4)

    assert found is not None
    assert np.array_equal(found, WORDS)


@pytest.mark.parametrize("umask", [0, 0o022])
def test_only_its_owner_may_read_it(umask: int, folder: Path) -> None:
    before = os.umask(umask)
    try:
        KeptWords(folder).write(1, TOLD, WORDS)
    finally:
        os.umask(before)

    assert mode(folder) == 0o700
    assert [mode(path) for path in folder.iterdir()] == [0o600]


@pytest.fixture
def small_disk() -> Iterator[None]:
    """A disk that takes no more than 4 KiB of any file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_disk")
def test_what_does_not_fit_on_the_disk_is_not_half_kept(folder: Path) -> None:
    kept = KeptWords(folder)
    kept.write(1, TOLD, WORDS)

    with pytest.raises(OSError, match="too large"):
        kept.write(2, ANOTHER, np.zeros(100_000, dtype=np.uint32))

    assert kept.read(2, ANOTHER, size=4) is None
    before = kept.read(1, TOLD, size=4)
    assert before is not None
    assert np.array_equal(before, WORDS)


@pytest.mark.usefixtures("small_disk")
def test_after_a_full_disk_the_same_round_can_be_kept(folder: Path) -> None:
    kept = KeptWords(folder)
    with pytest.raises(OSError, match="too large"):
        kept.write(1, TOLD, np.zeros(100_000, dtype=np.uint32))

    kept.write(1, TOLD, WORDS)

    found = kept.read(1, TOLD, size=4)
    assert found is not None
    assert np.array_equal(found, WORDS)


def test_words_are_written_least_significant_byte_first(folder: Path) -> None:
    """A folder may move to another machine between two attempts."""
    KeptWords(folder).write(1, TOLD, np.array([0x04030201], dtype=np.uint32))

    (file,) = folder.iterdir()
    assert file.read_bytes() == bytes([1, 2, 3, 4])


def test_what_a_killed_process_wrote_aside_goes_with_the_next_round(folder: Path) -> None:
    kept = KeptWords(folder)
    kept.write(1, TOLD, WORDS)
    (folder / f".round-1-{TOLD.hex()}.words.0123456789abcdef").write_bytes(b"half of it")

    kept.write(2, TOLD, WORDS)

    assert [path.name for path in folder.iterdir()] == [f"round-2-{TOLD.hex()}.words"]


def test_it_outlives_a_power_cut_except_in_a_simulation(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)

    KeptWords(folder, durable=False).write(1, TOLD, WORDS)
    assert synced == []
    KeptWords(folder).write(2, TOLD, WORDS)
    assert len(synced) == 2  # the content and its name
