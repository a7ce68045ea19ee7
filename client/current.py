"""A real hospital as its file is now: what staff write there holds from the next message on."""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from fedward.client.hospital import HospitalFile, read_hospital, refuse_pretended
from fedward.client.machine import limit_process
from fedward.client.site import Site
from fedward.study.errors import DataError, HospitalError

_LOG = logging.getLogger("fedward.client")


class CurrentSite:
    """The site of a hospital's file, kept warm for as long as the file stays as it is."""

    def __init__(self, path: Path) -> None:
        """Nothing is read yet.

        Args:
            path: The `hospital.toml`.
        """
        self._path = path
        self._read: tuple[int, ...] | None = None  # the file's marks when it was read
        self._site: Site | None = None
        self._first: HospitalFile | None = None

    def now(self) -> Site:
        """The site; opened anew, with its studies and records, if the file says another thing.

        Raises:
            HospitalError: The file has a fault, or what only a restart can change was changed.
            OptionError: Its noise would have a seed.
            DataError: The file cannot be read.
            InputError: Memory cannot be limited as it says.
        """
        marks = _marks(self._path)
        if self._site is None or marks != self._read:
            kept, self._site = self._site, None  # what was said before does not count any more
            hospital = read_hospital(self._path)
            refuse_pretended(hospital, self._path)
            self._refuse_moved(hospital)
            if kept is None or kept.hospital != hospital:
                if self._first is not None:
                    _LOG.warning("%s was changed, and holds as it is now", self._path.name)
                limit_process(hospital)
                kept = Site(hospital, self._path.parent)
            self._first = self._first or hospital
            self._site, self._read = kept, marks
        return self._site

    def _refuse_moved(self, hospital: HospitalFile) -> None:
        """The daemon writes its audit log under the name and to the state that it started with."""
        for key in ("name", "state"):
            before = getattr(self._first, key, now := getattr(hospital, key))
            if now != before:
                raise HospitalError(
                    key,
                    given=f"{now!r}, while the daemon runs with {before!r}",
                    allowed="the same until the daemon is stopped and started again",
                    file=self._path,
                )


@lru_cache(maxsize=16)
def current_site(path: Path) -> CurrentSite:
    """The one of a file, in this process."""
    return CurrentSite(path)


def _marks(path: Path) -> tuple[int, ...]:
    """What is different once somebody has written the file, or put another in its place."""
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(
            f"the hospital's file cannot be read ({error.strerror})",
            todo="put it back: nothing is answered without it",
            where=str(path),
        ) from None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
