"""The encoded contribution to the round that is under way, kept until the next round.

A round whose sum could not be opened is tried again with the same contribution: without training a
second time, and without spending privacy a second time. It is not masked, so only its owner may
read the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fedward.study.messages import Words

_PATTERN = "round-*.words"


class KeptWords:
    """The last contribution of one run."""

    def __init__(self, folder: Path) -> None:
        """Take the run's folder."""
        self._folder = folder

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
        aside = file.with_suffix(".tmp")
        aside.unlink(missing_ok=True)
        handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(handle, "wb") as open_file:
            open_file.write(np.ascontiguousarray(words, dtype="<u4").data)
        aside.replace(file)
        for old in earlier:
            if old != file:
                old.unlink(missing_ok=True)

    def _file(self, server_round: int, told: bytes) -> Path:
        return self._folder / f"round-{server_round}-{told.hex()}.words"
