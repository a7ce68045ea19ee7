"""The folder of decoded records: two files a data set, the least recently used goes first.

`NAME.rows` holds nothing but the records' numbers. `NAME.state` says how many of them, from the
first, are there, and which cannot be used and why; it is written aside and renamed, after the rows
are on the disk. So whoever is killed leaves a beginning that another one goes on from.

A data set that there is no room for has a state too, and no rows: it was looked through once, and
is decoded each time that it is read.

Rows are locked (`flock`): alone by who decodes them, together by all who read them. Nothing that
is locked is removed. The files show patients' records, and are their owner's alone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.faults import Unreadable
from fedward.client.data.stored import FileRows
from fedward.study.errors import DataError

_LOG = logging.getLogger("fedward.client")
_FORMAT = 1
_SPARE = 2**30  # bytes of the disk that are left to others
_SAVE = 1.0  # seconds of decoding that are lost at the most
_PAUSE = 0.05  # seconds between two tries to hold what another process looks at


@dataclass(frozen=True)
class Layout:
    """What a data set is when it is decoded.

    Attributes:
        count: Records.
        shape: Of one.
        dtype: Of its numbers.
    """

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def row(self) -> int:
        """Bytes of one record."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def size(self) -> int:
        """Bytes of all."""
        return self.count * self.row


@dataclass
class _State:
    """How far a data set is decoded."""

    kept: bool
    done: int = 0
    faults: list[tuple[int, DataError]] = field(default_factory=list)


class Kept:
    """One data set of the folder, held by this process until it is closed.

    Attributes:
        layout: Of the whole data set.
    """

    def __init__(self, folder: Path, name: str, layout: Layout, file: int, state: _State) -> None:
        """Take what `open_kept` has locked."""
        self.layout = layout
        self._folder, self._name, self._file, self._state = folder, name, file, state
        self._saved, self._at = state.done, time.monotonic()

    @property
    def done(self) -> int:
        """How many records, from the first, are decoded."""
        return self._state.done

    @property
    def holds_rows(self) -> bool:
        """Whether there was room for the records themselves."""
        return self._state.kept

    @property
    def faults(self) -> Sequence[tuple[int, DataError]]:
        """Of the decoded records, those that cannot be used, and why."""
        return self._state.faults

    def add(self, rows: NDArray[Any], faults: Sequence[tuple[int, DataError]]) -> None:
        """Write the next records; they are safe from a power cut a second later.

        Raises:
            DataError: The disk takes nothing more.
        """
        if self._state.kept:
            with _writing(self._folder):
                left, at = rows.reshape(-1).data.cast("B"), self._state.done * self.layout.row
                while left:
                    written = os.pwrite(self._file, left, at)
                    left, at = left[written:], at + written
        self._state.done += len(rows)
        self._state.faults += faults
        if self._state.done == self.layout.count or time.monotonic() - self._at > _SAVE:
            self.save()

    def save(self) -> None:
        """Let whoever comes later know of all that was added."""
        if self._saved == self._state.done:
            return
        with _writing(self._folder):
            if self._state.kept:
                os.fsync(self._file)
            _write_state(self._folder / f"{self._name}.state", self._state)
        self._saved, self._at = self._state.done, time.monotonic()

    def rows(self) -> FileRows:
        """All records, once they are decoded; they stay locked for as long as this is in use."""
        fcntl.flock(self._file, fcntl.LOCK_SH)
        return FileRows(self._file, (self.layout.count, *self.layout.shape), self.layout.dtype)

    def read(self) -> NDArray[Any]:
        """All records, once they are decoded, in memory.

        Raises:
            DataError: The file is shorter than it was.
        """
        found = np.empty((self.layout.count, *self.layout.shape), self.layout.dtype)
        left, at = found.reshape(-1).data.cast("B"), 0
        while left:
            got = os.preadv(self._file, [left[: 2**30]], at)
            if not got:
                raise DataError(
                    "stored records were cut short", todo="delete them", where=self._name
                )
            left, at = left[got:], at + got
        return found

    def __enter__(self) -> Kept:
        """Nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Save what is decoded, also where an error or a person has ended it."""
        try:
            self.save()
        finally:
            os.close(self._file)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"decoded records cannot be written ({error.strerror})",
            todo="mend the disk, or set [cache] folder in hospital.toml",
            where=str(folder),
        ) from error


def open_kept(folder: Path, name: str, layout: Layout, most: int) -> Kept:
    """Hold a data set of the folder, begun or finished or new; waits for who decodes it now.

    Args:
        folder: Of decoded records; made if it is not there.
        name: Of the data set: letters and digits.
        layout: Of the data set, with 1 record or more.
        most: Bytes that all rows of the folder may have.

    Raises:
        OSError: The folder cannot be used.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # the folder of state, as a rule
    folder.mkdir(exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    path = folder / f"{name}.rows"
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            kept = _held(folder, name, layout, file, most)
        except BaseException:
            os.close(file)
            raise
        if kept is not None:
            return kept
        os.close(file)
        time.sleep(_PAUSE)


def _held(folder: Path, name: str, layout: Layout, file: int, most: int) -> Kept | None:
    """The data set, if its file can be locked and is still the one of that name."""
    path, state_path = folder / f"{name}.rows", folder / f"{name}.state"
    fcntl.flock(file, fcntl.LOCK_SH)
    if not _is(path, file):
        return None
    before, state = _version(state_path), _read_state(state_path, layout, file)
    if state is None or state.done < layout.count or _roomier(folder, name, layout, most, state):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with _alone(folder):
                if state is None and before is not None and before == _version(state_path):
                    _remove(folder, name)  # it is of no use; its readers keep what they have open
            return None
        if not _is(path, file):
            return None
        state = _read_state(state_path, layout, file)  # the lock may have been let go in between
    if state is None or _roomier(folder, name, layout, most, state):
        state = _begin(folder, name, layout, file, most)
    if state_path.exists():
        os.utime(state_path)
    return Kept(folder, name, layout, file, state)


def _begin(folder: Path, name: str, layout: Layout, file: int, most: int) -> _State:
    """A data set of which nothing is decoded, with the room that it needs on the disk."""
    (folder / f"{name}.state").unlink(missing_ok=True)
    with _alone(folder):
        os.ftruncate(file, 0)
        room = _make_room(folder, name, layout.size, most)
        if room:
            try:
                _reserve(file, layout.size)
            except OSError as error:
                os.ftruncate(file, 0)
                _LOG.warning("no room for decoded records (%s)", error.strerror)
                room = False
    return _State(kept=room)


def _reserve(file: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


# --- Room -----------------------------------------------------------------------------------------


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes room, or takes it, meanwhile."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make_room(folder: Path, own: str, needed: int, most: int, *, removing: bool = True) -> bool:
    """Whether there is room, or can be made; data sets are removed only where that is enough."""
    if needed > most:
        return False
    sizes, short = _others(folder, own), _short(folder, own, needed, most)
    held: dict[Path, int] = {}
    try:
        for path in sorted(sizes, key=_last_used):
            if short > 0 and sizes[path] and (file := _try_alone(path)) is not None:
                held[path] = file
                short -= sizes[path]
        if short > 0:
            return False
        for path in held if removing else ():
            _remove(folder, path.stem)
            _LOG.info("decoded records that were not used for long make room for others")
        return True
    finally:
        for file in held.values():
            os.close(file)


def _others(folder: Path, own: str) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.glob("*.rows") if path.stem != own}


def _short(folder: Path, own: str, needed: int, most: int) -> int:
    """Bytes that are lacking; 0 or less if there is room."""
    taken, free = sum(_others(folder, own).values()), shutil.disk_usage(folder).free
    return max(taken + needed - most, needed + _SPARE - free)


def _roomier(folder: Path, name: str, layout: Layout, most: int, state: _State) -> bool:
    """Whether there was no room before, and is now."""
    return not state.kept and _make_room(folder, name, layout.size, most, removing=False)


def _last_used(rows: Path) -> float:
    state = rows.with_suffix(".state")
    return (state if state.exists() else rows).stat().st_mtime


def _try_alone(path: Path) -> int | None:
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def _remove(folder: Path, name: str) -> None:
    for suffix in ("state", "rows"):
        (folder / f"{name}.{suffix}").unlink(missing_ok=True)


def _version(path: Path) -> tuple[int, int] | None:
    """What is another one whenever a file is written anew; None if there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _is(path: Path, file: int) -> bool:
    """Whether a file is still the one of its name, and was not removed."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


# --- State ----------------------------------------------------------------------------------------


def _write_state(path: Path, state: _State) -> None:
    told = json.dumps(
        {
            "format": _FORMAT,
            "kept": state.kept,
            "done": state.done,
            "faults": [
                (row, isinstance(e, Unreadable), e.what, e.todo, e.where) for row, e in state.faults
            ],
        }
    ).encode()
    aside = path.with_suffix(".tmp")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(hashlib.sha256(told).hexdigest().encode() + b"\n" + told)
        file.flush()
        os.fsync(handle)
    aside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_state(path: Path, layout: Layout, file: int) -> _State | None:
    """What is decoded; None if that cannot be relied on."""
    try:
        digest, _, told = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    whole = hashlib.sha256(told).hexdigest().encode() == digest
    found = json.loads(told) if whole else {}
    size = os.fstat(file).st_size
    if found.get("format") != _FORMAT or size != (layout.size if found["kept"] else 0):
        _LOG.warning("decoded records were damaged, and are decoded anew")
        return None
    faults = [
        (row, (Unreadable if unreadable else DataError)(what, todo=todo, where=at))
        for row, unreadable, what, todo, at in found["faults"]
    ]
    return _State(found["kept"], found["done"], faults)
