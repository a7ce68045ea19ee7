"""What becomes of a round that gave no sum."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LostRounds:
    """How patient a run is with a round that too few hospitals answered.

    Attributes:
        repeats: How often such a round is asked again before it is given up.
        wait_seconds: How long to wait before each time.
        most_lost: Rounds in a row that may be given up, one less than end the run.
        pauses: Whether a run that cannot go on waits for a person; otherwise it fails.
    """

    repeats: int = 0
    wait_seconds: float = 0.0
    most_lost: int = 3
    pauses: bool = False


SIMULATED = LostRounds()
"""Nobody comes back in a simulation: a round is lost at once, and the third in a row is the end."""

DEPLOYED = LostRounds(repeats=5, wait_seconds=60.0, pauses=True)
"""Hospitals come back: the round is asked again, and then the run waits for a person."""
