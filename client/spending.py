"""What was spent of each data set, as the worker counted it when it charged last.

The ledger alone counts; composing it takes an accountant and torch, which the daemon does without.
It reads this note instead, for its audit log and its metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from fedward.privacy.secret_file import write_secret

NOTE = "spent.json"
_WORDS = ("study", "run")


class Counted(NamedTuple):
    """Epsilon of everything charged on a data set, after the charge of this run.

    Attributes:
        epsilon: Over all studies.
        study: Digest of the study that was charged last.
        run: Name of its run.
    """

    epsilon: float
    study: str
    run: str


def note_spent(state: Path, data: str, counted: Counted) -> None:
    """Write down what a data set came to.

    Args:
        state: The hospital's folder of state.
        data: Name of the data set.
        counted: What it came to.

    Raises:
        OSError: It cannot be written.
    """
    values = {**{name: known._asdict() for name, known in noted(state).items()}}
    values[data] = counted._asdict()
    write_secret(state / NOTE, json.dumps(values).encode(), over=True)


def noted(state: Path) -> dict[str, Counted]:
    """What each data set came to, by its name; nothing if nothing readable is noted."""
    try:
        values = json.loads((state / NOTE).read_text(encoding="utf-8"))
        return {
            str(data): Counted(float(v["epsilon"]), *(str(v[key]) for key in _WORDS))
            for data, v in values.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
