"""Who may take part in a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Members:
    """Who may take part: the consortium's roster as it is now.

    Attributes:
        version: Of the roster.
        names: Of the hospitals.
    """

    version: int
    names: frozenset[str]
