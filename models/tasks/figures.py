"""Which metrics people look at first, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = {
    "auc": "AUC",
    "concordance": "c-index",
    "dice": "Dice",
    "r2": "R2",
    "mae": "MAE",
    "accuracy": "accuracy",
    "f1": "F1",
    "error": "error",
    "distance": "distance",
    "loss": "loss",
}
"""Of any task, the foremost first."""

SHARES = frozenset({"auc", "concordance", "dice", "accuracy", "f1"})
"""Those that are between 0 and 1, and better if they are higher."""

_MOST = 3


def shown(metrics: Mapping[str, Any]) -> list[str]:
    """The two foremost metrics that a task has, known or not, and the loss."""
    there = [name for name in NAMES if name in metrics and name != "loss"]
    return [*there[: _MOST - 1], "loss"]
