"""Files decoded once, by all cores, and kept: the first reading is slow, and may be broken off.

What is decoded is written piece by piece to the folder of `cache.py`. Where there is none, it is in
memory; where there is no room, it is decoded whenever it is read.
"""

from __future__ import annotations

import hashlib
import logging
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import psutil
from numpy.typing import NDArray

from fedward.client.data.cache import Kept, Layout, open_kept
from fedward.client.data.context import Context
from fedward.client.data.stored import Stored
from fedward.privacy.framing import framed
from fedward.study.errors import DataError
from fedward.study.version import VERSION

IN_MEMORY = 2**30
"""Bytes of decoded records that are held in memory, unless they are a quarter of what is free."""

SMALL = 2**15
"""Bytes of a record that is decoded sooner than threads are changed."""

Decode = Callable[[int], NDArray[Any]]
Fault = tuple[int, DataError]
Fill = Callable[[int, NDArray[Any]], list[Fault]]
"""Writes the records from this number on into all of these rows; gives the faults, by record.

The rows hold anything before. The row of a record with a fault becomes zeros.
"""

_LOG = logging.getLogger("fedward.client")
_PIECE = 2**24  # bytes that are decoded before they are written; three such are there at once
_ROWS = 4096  # records, the same
_SHARES = 4  # of a piece for each thread: one share may take longer than another


class Keys(Sequence[str]):
    """Keys that are made when somebody asks for them: nobody does where nothing is kept."""

    def __init__(self, count: int, of: Callable[[int], str]) -> None:
        """So many keys, by their records' numbers."""
        self._count, self._of = count, of

    def __len__(self) -> int:
        """Number of records."""
        return self._count

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Of one record, or of several."""
        if isinstance(row, slice):
            return [self._of(one) for one in range(*row.indices(self._count))]
        if not 0 <= row < self._count:
            raise IndexError(row)
        return self._of(row)


def decoded(
    keys: Sequence[str],
    decode: Decode,
    shape: tuple[int, ...],
    dtype: type,
    context: Context,
    *,
    threads_from: float = SMALL,
) -> NDArray[Any] | Stored:
    """All records of a data set, decoded now or before.

    Args:
        keys: What each record's bytes are, and all that changes the decoding; see `file_key`.
        decode: Gives one record; called from several threads. Raises DataError, which
            `context.faults` is told of in the records' order; that record is zeros.
        shape: Of one record.
        dtype: Of its numbers.
        context: Where records are kept; who is told of faults and of progress.
        threads_from: As for `filled`.

    Returns:
        An array where it is small (`IN_MEMORY`) or nothing is kept, else rows that are read when
        they are asked for.

    Raises:
        DataError: A record cannot be used, or the folder of decoded records cannot be written.
    """
    layout = Layout(len(keys), shape, np.dtype(dtype))
    return filled(keys, partial(_fill, decode), layout, context, threads_from=threads_from)


def _nothing() -> None:
    """There is nothing to do first."""


def filled(
    keys: Sequence[str],
    fill: Fill,
    layout: Layout,
    context: Context,
    first: Callable[[], None] = _nothing,
    *,
    threads_from: float = SMALL,
) -> NDArray[Any] | Stored:
    """The same, of records that are decoded some at a time.

    Args:
        keys: What the records' bytes are; one may stand for many records.
        fill: Decodes some; called from several threads.
        layout: Of all of them.
        context: As for `decoded`.
        first: Done once before anything is decoded; raises DataError where nothing can be.
        threads_from: Bytes of a record from which several threads decode. Of smaller ones most of
            the work is Python's: threads would only wait for its lock.

    Raises:
        DataError: As `decoded`.
    """
    threads = _cores() if layout.row >= threads_from else 1
    small = layout.size <= min(IN_MEMORY, psutil.virtual_memory().available // 4)
    kept = _kept(keys, layout, context)
    if kept is None:
        first()
        return _into_memory(fill, layout, threads, context)
    with kept:
        if kept.holds_rows or not small:
            if kept.done < layout.count:
                first()
            _finish(kept, fill, threads, context)
        if kept.holds_rows:
            return kept.read() if small else Stored(kept.rows())
    if small:
        first()
        return _into_memory(fill, layout, threads, context)
    return Stored(_Anew(fill, layout, threads))


State = tuple[int, ...]
"""Of a file: what the system says of it, and changes with what it holds."""


def state_of(file: Path) -> State:
    """Size and time of the last change (ns); the error's number alone where there is no file."""
    try:
        found = os.stat(file)
    except OSError as error:
        return (error.errno or 0,)
    except ValueError:  # no file can have such a name
        return (0,)
    return state_in(found)


def state_in(found: os.stat_result) -> State:
    """Size and time of the last change (ns), of what the system says of a file that is there."""
    return found.st_size, found.st_mtime_ns


def file_key(file: Path, folder: Path, *rest: object, state: State | None = None) -> str:
    """What a file holds, without reading it, and what else decides of a record.

    Args:
        file: That holds the record.
        folder: Of all of them: they may be moved together.
        rest: Place in the file, and what the decoding depends on.
        state: Of the file, if it is known already.
    """
    path, within = str(file), os.path.join(folder, "")
    state = state_of(file) if state is None else state
    readable = (os.access(path, os.R_OK),) if len(state) > 1 else ()
    return repr((path.removeprefix(within), *state, *readable, *rest))


def _kept(keys: Sequence[str], layout: Layout, context: Context) -> Kept | None:
    if context.cache is None or not layout.size:
        return None
    digest = hashlib.sha256(framed("fedward/1/decoded", VERSION, repr(layout)))
    for key in keys:
        digest.update(framed(key.encode("utf-8", "surrogatepass")))
    try:
        kept = open_kept(context.cache, digest.hexdigest(), layout, context.cache_bytes)
    except OSError as error:
        _LOG.warning("decoded records are not kept (%s): mend the folder", error.strerror)
        return None
    if not kept.holds_rows:
        _LOG.warning(
            "no room for %.1f GiB of decoded records: they are decoded anew each time; raise "
            "[cache] gib in hospital.toml, or free the disk",
            layout.size / 2**30,
        )
    return kept


def _finish(kept: Kept, fill: Fill, threads: int, context: Context) -> None:
    """Decode what was not decoded yet, and tell of all faults there are."""
    for row, error in kept.faults:
        context.faults.add(error, row)
    total = kept.layout.count
    if kept.done == total:
        return
    context.progress(kept.done, total)
    with _pieces(fill, threads, kept.layout, kept.done) as pieces:
        for piece in pieces:
            kept.add(piece.rows, piece.faults)
            for row, error in piece.faults:
                context.faults.add(error, row)
            context.progress(kept.done, total)


def _into_memory(fill: Fill, layout: Layout, threads: int, context: Context) -> NDArray[Any]:
    found = _rows(layout.count, layout)
    with _pieces(fill, threads, layout, 0, found) as pieces:
        for piece in pieces:
            end = piece.first + len(piece.rows)
            for row, error in piece.faults:
                context.faults.add(error, row)
            context.progress(end, layout.count)
    return found


class _Anew:
    """Rows that are decoded whenever they are read."""

    def __init__(self, fill: Fill, layout: Layout, threads: int) -> None:
        self._fill, self._layout, self._threads = fill, layout, threads
        self.shape = (layout.count, *layout.shape)
        self.dtype = layout.dtype

    def take(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        wanted = Layout(len(numbers), self._layout.shape, self._layout.dtype)
        found = _rows(wanted.count, wanted)

        def fill(first: int, rows: NDArray[Any]) -> list[Fault]:
            return [
                fault
                for place in range(len(rows))
                for fault in self._fill(int(numbers[first + place]), rows[place : place + 1])
            ]

        with _pieces(fill, self._threads, wanted, 0, found) as pieces:
            for piece in pieces:
                for _, error in piece.faults:
                    raise error
        return found


@dataclass(frozen=True)
class _Piece:
    """Some records in a row, from the number of the first."""

    first: int
    rows: NDArray[Any]
    faults: list[Fault]


@contextmanager
def _pieces(
    fill: Fill, threads: int, layout: Layout, first: int, into: NDArray[Any] | None = None
) -> Iterator[Iterator[_Piece]]:
    """All records from the first on, in order; the next piece is decoded while one is written.

    Threads, because libraries let go of Python's lock while they decode, and need no copies. Not
    one alone for records in memory: this one would have nothing to do meanwhile, and what a thread
    frees in memory of its own goes back to the system after every record.

    Args:
        fill: Decodes some records.
        threads: How many of them are decoded at once.
        layout: Of all of them.
        first: Number of the first one.
        into: Room for all records, if they are to be in memory.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decoding")
    # Libraries' warnings may quote what a file holds. Filters are one for all threads: a reader
    # that sets its own takes away another's when it ends, so there is one around all of them.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if threads == 1 and into is not None:
                yield _here(fill, layout, first, into)
            else:
                yield _in_order(pool, threads, fill, layout, first, into)
        finally:
            pool.shutdown(cancel_futures=True)


def _here(fill: Fill, layout: Layout, first: int, into: NDArray[Any]) -> Iterator[_Piece]:
    step = _step(layout)
    for start in range(first, layout.count, step):
        rows = into[start : start + step]
        yield _Piece(start, rows, fill(start, rows))


def _in_order(
    pool: ThreadPoolExecutor,
    threads: int,
    fill: Fill,
    layout: Layout,
    first: int,
    into: NDArray[Any] | None,
) -> Iterator[_Piece]:
    step = _step(layout)
    share = max(step // (threads * _SHARES), 1)
    coming: deque[tuple[int, NDArray[Any], list[Future[list[Fault]]]]] = deque()
    for start in range(first, layout.count, step):
        count = min(step, layout.count - start)
        rows = _rows(count, layout) if into is None else into[start : start + count]
        parts = [
            pool.submit(fill, start + at, rows[at : at + share])
            for at in range(0, len(rows), share)
        ]
        coming.append((start, rows, parts))
        if len(coming) > 1:
            yield _finished(*coming.popleft())
    while coming:
        yield _finished(*coming.popleft())


def _step(layout: Layout) -> int:
    """Records of a piece."""
    return min(max(_PIECE // max(layout.row, 1), 1), _ROWS)


def _rows(count: int, layout: Layout) -> NDArray[Any]:
    """Room for records: NumPy asks for large pages only where it is not to be zeros."""
    return np.empty((count, *layout.shape), layout.dtype)


def _finished(first: int, rows: NDArray[Any], parts: Sequence[Future[list[Fault]]]) -> _Piece:
    return _Piece(first, rows, [fault for part in parts for fault in part.result()])


def _fill(decode: Decode, first: int, rows: NDArray[Any]) -> list[Fault]:
    """Decode into these rows; the faults, each with its record's number."""
    faults = []
    for place in range(len(rows)):
        try:
            record = decode(first + place)
        except DataError as error:
            faults.append((first + place, error))
            rows[place] = 0
            continue
        if record.shape != rows.shape[1:]:
            raise ValueError(f"a record of shape {record.shape}, not {rows.shape[1:]}")
        rows[place] = record
    return faults


def _cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
