"""What takes long to find out: found out again only when it may have changed, and aside."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from fedward.study.errors import FedwardError

Value = TypeVar("Value")
Stamp = tuple[object, ...]


class Remembered(Generic[Value]):
    """The newest value that was found; a thread finds the next one while this one is shown.

    Args:
        find: Takes its time; gives the trouble that it expects as a value too.
        trouble: Makes a value of a sentence, for any other error: it takes an older value's place.
        pause: Seconds between two times, at least.
    """

    def __init__(
        self, find: Callable[[], Value], trouble: Callable[[str], Value], *, pause: float
    ) -> None:
        self._find, self._trouble, self._pause = find, trouble, pause
        self._one = threading.Lock()
        self._stamp: Stamp | None = None
        self._busy = False
        self._last = -pause
        self._value: Value | None = None

    def value(self, stamp: Stamp) -> Value | None:
        """What was found last; None until the first time is over.

        Args:
            stamp: Another one if the value may be another one.
        """
        with self._one:
            late = time.monotonic() - self._last >= self._pause
            if stamp != self._stamp and late and not self._busy:
                threading.Thread(target=self._find_anew, args=(stamp,), daemon=True).start()
                self._busy, self._stamp = True, stamp
            return self._value

    def _find_anew(self, stamp: Stamp) -> None:
        try:
            found, known = self._find(), stamp
        except FedwardError as error:
            found, known = self._trouble(error.line()), None
        except Exception as error:  # whatever it is: an old value would be shown as if it were new
            found, known = self._trouble(f"this cannot be found out ({error!r})"), None
        with self._one:
            self._value, self._stamp = found, known
            self._busy, self._last = False, time.monotonic()


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """Changes when one of these files does."""
    found: list[object] = []
    for path in paths:
        try:
            seen = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((path.name, seen.st_mtime_ns, seen.st_size, seen.st_ino))
    return tuple(found)
