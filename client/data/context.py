"""What a reader is given beside the source and the study."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedward.client.data.faults import STRICT, Faults

Progress = Callable[[int, int], object]
"""Told how many of how many files are decoded."""


@dataclass(frozen=True)
class Context:
    """Where a hospital's files are, and who is told of what is wrong with them.

    Attributes:
        folder: Of the hospital's file, which its paths are relative to.
        faults: Told of records that cannot be used.
        cache: Folder for decoded records; none are kept if left out.
        progress: Told of the first decoding, which takes long.
    """

    folder: Path
    faults: Faults = STRICT
    cache: Path | None = None
    progress: Progress = lambda done, total: None
