"""Records decoded once: kept, gone on with after a kill, bounded, and never trusted if damaged."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedward.client.data import cache as caching
from fedward.client.data import decoded as decoding
from fedward.client.data.context import Context, LoggedProgress
from fedward.client.data.decoded import decoded, file_key
from fedward.client.data.faults import ListedFaults
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError

SHAPE = (2, 3)
ROW = 4 * 2 * 3


def record(row: int, salt: int = 0) -> NDArray[np.float32]:
    return np.arange(6, dtype=np.float32).reshape(SHAPE) + 10 * row + salt


def records(count: int, salt: int = 0) -> NDArray[np.float32]:
    return np.stack([record(row, salt) for row in range(count)])


class Files:
    """Records in files that are not there: it counts what is decoded, and some are bad."""

    def __init__(self, count: int = 50, bad: tuple[int, ...] = (), name: str = "a") -> None:
        self.keys = [f"{name}-{number}" for number in range(count)]
        self.bad = bad
        self.decoded: Counter[int] = Counter()

    def decode(self, row: int) -> NDArray[np.float32]:
        self.decoded[row] += 1
        if row in self.bad:
            raise DataError(f"file {row} is bad", todo="mend it", where="here")
        return record(row)

    def read(self, context: Context) -> NDArray[Any] | Stored:
        self.decoded.clear()
        return decoded(self.keys, self.decode, SHAPE, np.float32, context)


def whole(found: NDArray[Any] | Stored) -> NDArray[Any]:
    return found[:].numpy() if isinstance(found, Stored) else found


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context(tmp_path, cache=tmp_path / "state" / "cache")


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_ROWS", 4)
    monkeypatch.setattr(caching, "_SAVE", 0.0)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is small enough for memory."""
    monkeypatch.setattr(decoding, "IN_MEMORY", 0)


def paths(context: Context, suffix: str) -> list[Path]:
    assert context.cache is not None
    return sorted(context.cache.glob(f"*.{suffix}"))


def test_without_a_folder_it_is_in_memory(tmp_path: Path) -> None:
    files = Files()

    for _ in range(2):
        found = files.read(Context(tmp_path))
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, records(50))
        assert len(files.decoded) == 50
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("threads_from", [0, math.inf], ids=["many threads", "this one"])
@pytest.mark.usefixtures("small_pieces")
def test_in_memory_every_piece_has_its_place(
    threads_from: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_cores", lambda: 2)
    files, faults, seen = Files(50, bad=(3, 17, 41)), ListedFaults(), set[int]()

    def decode(row: int) -> NDArray[np.float32]:
        seen.add(threading.get_ident())
        return files.decode(row)

    context = Context(tmp_path, faults)
    found = decoded(files.keys, decode, SHAPE, np.float32, context, threads_from=threads_from)

    expected = records(50)
    expected[[3, 17, 41]] = 0
    assert np.array_equal(whole(found), expected)
    assert [row for row, _ in faults.found] == [3, 17, 41]
    assert (seen == {threading.get_ident()}) == (threads_from == math.inf)


def test_what_is_small_comes_back_as_an_array_and_is_decoded_once(context: Context) -> None:
    files = Files()

    first = files.read(context)
    assert files.decoded.total() == 50
    second = files.read(context)

    assert files.decoded.total() == 0
    for found in (first, second):
        assert isinstance(found, np.ndarray)
        assert np.array_equal(found, records(50))


@pytest.mark.usefixtures("large", "small_pieces")
def test_what_is_large_stays_on_disk(context: Context) -> None:
    files = Files()

    first, second = files.read(context), files.read(context)

    assert files.decoded.total() == 0
    for found in (first, second):
        assert isinstance(found, Stored)
        assert np.array_equal(whole(found), records(50))


def test_of_no_records_nothing_is_kept(context: Context) -> None:
    assert whole(Files(0).read(context)).shape == (0, *SHAPE)
    assert context.cache is not None
    assert not context.cache.exists()


def test_other_keys_shapes_and_types_are_other_data_sets(context: Context) -> None:
    files = Files(5)
    files.read(context)

    files.keys[3] = "another size"
    assert np.array_equal(whole(files.read(context)), records(5))
    assert files.decoded.total() == 5
    numbers = decoded(files.keys, lambda row: np.full(3, row), (3,), np.int64, context)
    assert isinstance(numbers, np.ndarray)
    assert numbers.dtype == np.int64
    assert numbers.tolist() == [[row] * 3 for row in range(5)]
    assert len(paths(context, "rows")) == 3


def test_a_record_of_another_shape_is_a_mistake(context: Context) -> None:
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        decoded(["a"], lambda _: np.ones(1), SHAPE, np.float32, context)


def test_files_are_their_owners_alone(context: Context) -> None:
    mask = os.umask(0)
    try:
        Files().read(context)
    finally:
        os.umask(mask)

    assert context.cache is not None
    for folder in (context.cache, context.cache.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(context.cache.iterdir())
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.usefixtures("small_pieces")
def test_progress_is_told_of_the_first_decoding_only(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    context = Context(
        tmp_path, cache=tmp_path / "cache", progress=lambda done, total: told.append((done, total))
    )
    files = Files(10)

    files.read(context)
    assert told == [(0, 10), (4, 10), (8, 10), (10, 10)]
    told.clear()
    files.read(context)
    assert not told


def test_the_log_says_shares_and_no_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fedward.client")
    progress = LoggedProgress()

    for done in range(0, 1235, 100):
        progress(done, 1234)
    progress(1234, 1234)

    lines = [entry.getMessage() for entry in caplog.records]
    assert lines[0].endswith(": 0 %")
    assert lines[-1].endswith(": 100 %")
    assert len(lines) == 11
    assert "1234" not in "".join(lines)


# --- Faults ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_pieces")
def test_bad_records_are_remembered_with_their_reason(context: Context, tmp_path: Path) -> None:
    files = Files(50, bad=(41, 3, 17))
    told = []
    for _ in range(2):
        faults = ListedFaults()
        found = files.read(Context(tmp_path, faults, context.cache))
        told.append([(row, error.line()) for row, error in faults.found])

    assert files.decoded.total() == 0
    assert told[0] == told[1] == [(n, f"here: file {n} is bad; mend it") for n in (3, 17, 41)]
    expected = records(50)
    expected[[3, 17, 41]] = 0
    assert np.array_equal(whole(found), expected)


@pytest.mark.usefixtures("small_pieces")
def test_in_training_the_first_bad_record_is_an_error_each_time(context: Context) -> None:
    files = Files(50, bad=(41, 17))

    for _ in range(3):
        with pytest.raises(DataError, match="file 17 is bad"):
            files.read(context)
    assert files.decoded.total() == 0


def test_a_mended_file_is_read_again(context: Context, tmp_path: Path) -> None:
    file = tmp_path / "a"
    keys = [file_key(file, tmp_path)]
    file.write_bytes(b"1")
    keys.append(file_key(file, tmp_path))
    file.write_bytes(b"22")
    keys.append(file_key(file, tmp_path))
    os.utime(file, ns=(1, 1))
    keys.append(file_key(file, tmp_path))
    keys.append(file_key(file, tmp_path, "window", 40))

    assert len(set(keys)) == 5
    assert file_key(file, tmp_path) == file_key(file, tmp_path)


# --- Damage ---------------------------------------------------------------------------------------


def damage(kind: str, context: Context) -> None:
    (rows,), (state,) = paths(context, "rows"), paths(context, "state")
    match kind:
        case "state cut":
            state.write_bytes(state.read_bytes()[:-7])
        case "state empty":
            state.write_bytes(b"")
        case "state flipped":
            told = bytearray(state.read_bytes())
            told[-20] ^= 1
            state.write_bytes(told)
        case "state gone":
            state.unlink()
        case "rows cut":
            os.truncate(rows, rows.stat().st_size - 1)
        case "rows gone":
            rows.unlink()


@pytest.mark.parametrize(
    "kind", ["state cut", "state empty", "state flipped", "state gone", "rows cut", "rows gone"]
)
def test_damaged_files_are_decoded_anew(context: Context, kind: str) -> None:
    files = Files()
    files.read(context)
    damage(kind, context)

    found = files.read(context)
    assert files.decoded.total() == 50
    assert np.array_equal(whole(found), records(50))
    files.read(context)
    assert files.decoded.total() == 0


@pytest.mark.usefixtures("large")
def test_damage_beside_somebody_who_reads_is_no_deadlock(context: Context) -> None:
    files = Files()
    reader = files.read(context)
    damage("state cut", context)

    found = files.read(context)

    assert files.decoded.total() == 50
    assert np.array_equal(whole(found), records(50))
    assert np.array_equal(whole(reader), records(50))


def test_a_folder_that_cannot_be_used_is_told_and_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("no folder")

    found = Files().read(Context(tmp_path, cache=tmp_path / "cache"))

    assert np.array_equal(whole(found), records(50))
    assert "not kept" in caplog.text


def test_a_link_in_the_folder_is_not_followed(context: Context, tmp_path: Path) -> None:
    files = Files()
    files.read(context)
    (rows,) = paths(context, "rows")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    rows.unlink()
    rows.symlink_to(victim)

    assert np.array_equal(whole(files.read(context)), records(50))
    assert victim.read_bytes() == b"precious"


# --- The bound ------------------------------------------------------------------------------------


def bounded(context: Context, count: int) -> Context:
    return Context(context.folder, context.faults, context.cache, cache_bytes=count * ROW)


def test_the_least_recently_used_make_room(context: Context) -> None:
    context = bounded(context, 120)
    files = {name: Files(50, name=name) for name in "abc"}
    for name in "aba":
        files[name].read(context)
        time.sleep(0.02)
    assert files["a"].decoded.total() == 0

    files["c"].read(context)  # b was used before a

    assert sum(path.stat().st_size for path in paths(context, "rows")) <= 120 * ROW
    files["a"].read(context)
    assert files["a"].decoded.total() == 0
    files["b"].read(context)
    assert files["b"].decoded.total() == 50


@pytest.mark.usefixtures("large")
def test_what_is_in_use_is_not_removed(context: Context) -> None:
    context = bounded(context, 60)
    one, other = Files(50, name="a"), Files(50, name="b")
    held = one.read(context)

    beside = other.read(context)  # no room: decoded whenever it is read
    assert isinstance(beside, Stored)
    assert np.array_equal(whole(beside), records(50))
    assert np.array_equal(whole(one.read(context)), records(50))
    assert one.decoded.total() == 0
    assert np.array_equal(whole(held), records(50))
    del held
    other.read(context)  # now there is room
    other.read(context)
    assert other.decoded.total() == 0
    one.read(context)
    assert one.decoded.total() == 50


@pytest.mark.usefixtures("large", "small_pieces")
def test_what_is_larger_than_the_bound_is_looked_through_once(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    context = bounded(context, 49)
    files, faults = Files(50, bad=(7,)), ListedFaults()

    files.read(Context(context.folder, faults, context.cache, cache_bytes=49 * ROW))
    assert files.decoded.total() == 50
    again = ListedFaults()
    found = files.read(Context(context.folder, again, context.cache, cache_bytes=49 * ROW))
    assert files.decoded.total() == 0

    assert [row for row, _ in again.found] == [row for row, _ in faults.found] == [7]
    assert isinstance(found, Stored)
    assert np.array_equal(found[np.array([9, 3, 9])].numpy(), records(10)[[9, 3, 9]])
    assert files.decoded == {9: 2, 3: 1}
    assert sum(path.stat().st_size for path in paths(context, "rows")) == 0
    assert "[cache] gib" in caplog.text
    with pytest.raises(DataError, match="file 7 is bad"):
        found[np.array([6, 7])]
    with pytest.raises(DataError, match="file 7 is bad"):
        files.read(context)


@pytest.mark.usefixtures("large")
def test_the_disk_is_not_filled(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    space = shutil.disk_usage(context.folder)
    free = 2**30 + 50 * ROW
    monkeypatch.setattr(shutil, "disk_usage", lambda _: space._replace(free=free - 1))
    files = Files()
    assert np.array_equal(whole(files.read(context)), records(50))
    assert sum(path.stat().st_size for path in paths(context, "rows")) == 0

    monkeypatch.setattr(shutil, "disk_usage", lambda _: space._replace(free=free))
    files.read(context)
    assert [path.stat().st_size for path in paths(context, "rows")] == [50 * ROW]


@pytest.mark.usefixtures("small_pieces")
def test_a_disk_that_takes_nothing_more_is_named(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DataError, match=r"cannot be written .*No space left"):
        Files().read(context)


# --- Processes ------------------------------------------------------------------------------------

DECODER = """
import os, sys, time
from pathlib import Path
import numpy as np
from fedward.client.data import cache, decoded
from fedward.client.data.context import Context

folder, count, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
decoded._ROWS, cache._SAVE = 4, 0.0
log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def decode(row):
    time.sleep(seconds)
    os.write(log, f"{row}\\n".encode())
    return np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * row

keys = [f"a-{row}" for row in range(count)]
found = decoded.decoded(keys, decode, (2, 3), np.float32, Context(folder, cache=folder / "cache"))
print(float(found.astype(np.float64).sum()))
"""


def start(folder: Path, count: int, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DECODER, str(folder), str(count), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def logged(folder: Path) -> Iterator[int]:
    log = folder / "log"
    yield from map(int, log.read_text().split()) if log.exists() else ()


@pytest.mark.slow
def test_who_is_killed_is_gone_on_from(tmp_path: Path) -> None:
    count, kills = 120, 3
    for life in range(kills):
        process = start(tmp_path, count, 0.02)
        deadline = time.monotonic() + 60
        while len(set(logged(tmp_path))) < 30 * (life + 1) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert process.stdout is not None
        process.stdout.close()

    text, _ = start(tmp_path, count, 0.0).communicate(timeout=60)

    assert float(text) == records(count).astype(np.float64).sum()
    times = Counter(logged(tmp_path))
    assert set(times) == set(range(count))
    # Of each life only what was under way is done twice: pieces of 4, two or three at once.
    assert times.total() <= count + kills * 16
    assert times[0] == times[1] == 1


@pytest.mark.slow
def test_two_processes_decode_each_record_once(tmp_path: Path) -> None:
    both = [start(tmp_path, 60, 0.01) for _ in range(2)]

    texts = [process.communicate(timeout=60)[0] for process in both]

    assert [float(text) for text in texts] == [records(60).astype(np.float64).sum()] * 2
    assert Counter(logged(tmp_path)) == {row: 1 for row in range(60)}


def test_what_a_library_warns_of_is_shown_by_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread's filter of warnings ends while another's library still quotes a file."""
    monkeypatch.setattr(decoding, "_cores", lambda: 2)
    inside, outside = threading.Event(), threading.Event()

    def decode(row: int) -> NDArray[np.float32]:
        if row not in (0, 64):  # the first of each thread's share
            return np.zeros(2**14, np.float32)
        if row:
            assert inside.wait(20)  # the first one saved its filters before this one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inside.set()
            if row:
                assert outside.wait(20)
                warnings.warn("Mrs Miller", stacklevel=1)
            else:
                time.sleep(0.2)
        if not row:
            outside.set()
        return np.zeros(2**14, np.float32)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        decoded([str(row) for row in range(128)], decode, (2**14,), np.float32, Context(Path()))

    assert not shown
