"""The lock on an aggregator's state folder, which only one process may hold."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from fedward.study.errors import ServiceError

_PROBE_SECONDS = 0.5  # whoever asks whether it runs holds the lock for less


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold an aggregator's state folder alone.

    Raises:
        ServiceError: Another process holds it.
    """
    with (state / "lock").open("a") as lock:
        last = time.monotonic() + _PROBE_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() < last:
                    time.sleep(0.05)
                    continue
                raise ServiceError(
                    "an aggregator runs on this folder already",
                    todo="see fedward aggregator status",
                    where=str(state),
                ) from None
        yield


def is_running(state: Path) -> bool:
    """Whether a supervisor holds the state folder."""
    try:
        with (state / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another who asks is not it
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
