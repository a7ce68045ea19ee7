"""What was asked in the exchange under way: kept before a question leaves.

Hospitals answer an exchange again only over the same invited hospitals and with a higher attempt,
and once they were asked to unmask, only for the same survivors. A server that was killed must know
all three, whatever moment it was killed at.
"""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedward.server.durable import write_durably
from fedward.study.errors import DataError


@dataclass(frozen=True)
class Asked:
    """One exchange.

    Attributes:
        number: Of the exchange: the round, or a judging round.
        adverts: The packed adverts of all who were invited.
        attempt: The last that may have been asked.
        survivors: Who may have been asked to unmask, by name; empty before that.
    """

    number: int
    adverts: tuple[bytes, ...]
    attempt: int
    survivors: tuple[str, ...] = ()


class AskedBefore:
    """The exchange under way, and no earlier one."""

    def __init__(self, file: Path | None = None) -> None:
        """Keep it in a file, or, if there is none, for as long as this process lives."""
        self._file = file
        self._latest: Asked | None = None

    def read(self, number: int) -> Asked | None:
        """What was asked in this exchange; None if nothing was.

        Raises:
            DataError: The file cannot be read.
        """
        if self._latest is None and self._file is not None and self._file.exists():
            self._latest = _read(self._file)
        latest = self._latest
        return latest if latest is not None and latest.number == number else None

    def write(self, asked: Asked) -> None:
        """Keep what is about to be asked.

        Raises:
            RunPaused: The disk does not take it: it must not be asked.
        """
        if self._file is not None:
            adverts = [base64.b64encode(advert).decode() for advert in asked.adverts]
            text = json.dumps({**asdict(asked), "adverts": adverts}, indent=1)
            write_durably(self._file, text.encode() + b"\n")
        self._latest = asked


def _read(file: Path) -> Asked:
    try:
        values: dict[str, Any] = json.loads(file.read_bytes())
        return Asked(
            number=int(values["number"]),
            adverts=tuple(base64.b64decode(a, validate=True) for a in values["adverts"]),
            attempt=int(values["attempt"]),
            survivors=tuple(map(str, values["survivors"])),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"does not say what hospitals were asked ({error})",
            todo="restore it from a backup, or submit the study as a new run",
            where=str(file),
        ) from None
