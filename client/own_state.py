"""What a hospital keeps for itself between the rounds of a run: arrays that never leave it.

A file for each of the last rounds, `own-000007.safetensors`, written aside and renamed, for its
owner alone. A round that is asked again begins from the same state as at first: so the state that a
round began from is kept beside the one that it led to, until a later round begins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedward.privacy.secret_file import write_secret
from fedward.study.errors import DataError

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Kept:
    """The state after a round."""

    round: int
    arrays: Arrays


class OwnState:
    """One kind of state of one run."""

    def __init__(self, folder: Path, name: str, *, durable: bool) -> None:
        """Take where it lies.

        Args:
            folder: Of the run; it is made when something is written.
            name: Of this kind of state.
            durable: What is written outlives a power cut; a simulation need not wait for the disk.
        """
        self._folder = folder
        self._name = name
        self._pattern = re.compile(rf"{re.escape(name)}-(\d{{6,}})\.safetensors")
        self._durable = durable

    def before(self, number: int) -> Kept | None:
        """The state after the last round before this one that there was here, if there was any.

        Raises:
            DataError: It cannot be read.
        """
        earlier = [written for written in self._numbers() if written < number]
        if not earlier:
            return None
        return Kept(max(earlier), self._read(max(earlier)))

    def of(self, number: int) -> Arrays | None:
        """The state after this round; None if it is not kept.

        Raises:
            DataError: It cannot be read.
        """
        return self._read(number) if number in self._numbers() else None

    def write(self, number: int, arrays: Arrays, *, base: int) -> None:
        """Keep the state after a round and the one that it began from, and no other.

        Args:
            number: Of the round.
            arrays: The state.
            base: The round that the round's work began from; 0 if there is none.

        Raises:
            DataError: It cannot be written; what was there before is unchanged.
        """
        content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        try:
            for folder in (self._folder.parent, self._folder):  # parents' would get the usual mode
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_secret(self._file(number), content, over=True, wait=self._durable)
            for other in self._numbers() - {number, base}:
                self._file(other).unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"cannot be written ({error.strerror})",
                todo="make room on the disk, and see who owns the folder",
                where=str(self._file(number)),
            ) from None

    def _read(self, number: int) -> Arrays:
        file = self._file(number)
        try:
            found: Arrays = load(file.read_bytes())
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"this hospital's own state cannot be read ({' '.join(str(error).split())})",
                todo="restore it from a backup, or begin a new run",
                where=str(file),
            ) from None
        return found

    def _numbers(self) -> set[int]:
        found = (self._pattern.fullmatch(path.name) for path in self._folder.glob("*.safetensors"))
        return {int(match[1]) for match in found if match}

    def _file(self, number: int) -> Path:
        return self._folder / f"{self._name}-{number:06}.safetensors"
