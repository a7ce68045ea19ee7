"""The encoded contribution to the round that is under way, kept until the next round.

A round whose sum could not be opened is tried again with the same contribution: without training a
second time, and without spending privacy a second time. It is not masked, so only its owner may
read the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedward.privacy.secret_file import write_secret
from fedward.study.messages import Words

_PATTERN = "*round-*.words*"  # also what a killed process wrote aside


class KeptWords:
    """The last contribution of one run."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """Take the run's folder.

        Args:
            folder: Of the run.
            durable: What is written outlives a power cut; a simulation need not wait for the disk.
        """
        self._folder = folder
        self._durable = durable

    def read(self, server_round: int, told: bytes, *, size: int) -> Words | None:
        """What was written for this round and what was told in it, shape (size,).

        None if nothing was written, or not all of it is there.
        """
        try:
            content = bytearray(self._file(server_round, told).read_bytes())
        except FileNotFoundError:
            return None
        return np.frombuffer(content, dtype="<u4") if len(content) == 4 * size else None

    def write(self, server_round: int, told: bytes, words: Words) -> None:
        """Keep the contribution to a round, and no earlier one; whole or not at all."""
        for folder in (self._folder.parent, self._folder):  # parents' would get the usual mode
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = self._file(server_round, told)
        earlier = list(self._folder.glob(_PATTERN))
        content = np.ascontiguousarray(words, dtype="<u4").data
        write_secret(file, content, over=True, wait=self._durable)
        for old in earlier:
            if old != file:
                old.unlink(missing_ok=True)

    def _file(self, server_round: int, told: bytes) -> Path:
        return self._folder / f"round-{server_round}-{told.hex()}.words"
