"""What a reader is given beside the source and the study."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedward.client.data.faults import STRICT, Faults

_LOG = logging.getLogger("fedward.client")

Progress = Callable[[int, int], object]
"""Told how many of how many records are decoded."""


class LoggedProgress:
    """Lines of a log, which may be sent on: shares, and no number of records."""

    def __init__(self) -> None:
        """Nothing is said of what is decoded already."""
        self._next = 0

    def __call__(self, done: int, total: int) -> None:
        """Say a line at the beginning, and one for every tenth."""
        tenth = 10 * done // max(total, 1)
        if tenth >= self._next:
            self._next = tenth + 1
            _LOG.info("decoding records for the first time: %d %%", 10 * tenth)


def unseen(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Context:
    """Where a hospital's files are, and who is told of what is wrong with them.

    Attributes:
        folder: Of the hospital's file, which its paths are relative to.
        faults: Told of records that cannot be used.
        cache: Folder for decoded records; none are kept if left out.
        progress: Told of the first decoding, which takes long.
        cache_bytes: Most bytes that the records in that folder may have.
        models: Folder of pretrained models; none if left out.
    """

    folder: Path
    faults: Faults = STRICT
    cache: Path | None = None
    progress: Progress = unseen
    cache_bytes: int = 32 * 2**30
    models: Path | None = None
