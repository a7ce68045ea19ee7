"""When training ends before its last round, and which round's model is delivered."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedward.study.frozen import Frozen

Metric = Literal[
    "accuracy",
    "auc",
    "average_precision",
    "brier",
    "calibration_error",
    "concordance",
    "dice",
    "distance",
    "error",
    "f1",
    "loss",
    "mae",
    "r2",
    "rmse",
]

_CLASSES = ("loss", "accuracy", "auc", "average_precision", "brier", "calibration_error", "f1")
METRICS: dict[str, tuple[str, ...]] = {
    "binary": _CLASSES,
    "multiclass": _CLASSES,
    "multilabel": ("loss", "auc", "average_precision", "f1"),
    "regression": ("loss", "mae", "r2", "rmse"),
    "survival": ("loss", "concordance"),
    "segmentation": ("loss", "accuracy", "dice"),
    "reconstruction": ("loss", "error"),
    "generation": ("loss", "distance"),
}
"""Those that can be waited for, by kind of task."""

NOT_OF_NOISY_SUMS = frozenset({"average_precision", "brier", "calibration_error"})
"""Those that an evaluation with noise does not have: its bins are too few."""

_BETTER_IF_LOWER = frozenset(
    {"loss", "brier", "calibration_error", "distance", "error", "mae", "rmse"}
)


class EarlyStopping(Frozen):
    """Training ends when the model has not become better for a while.

    Attributes:
        metric: Of the validation part over all hospitals of a round, from the sums that are
            monitored anyway.
        patience: Measured rounds without improvement after which training ends.
        min_delta: Least difference that is an improvement.
        keep: Which model is judged and delivered: of the `best` round, or the `last`.
    """

    metric: Metric
    patience: Annotated[int, Field(ge=1, le=100_000)]
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    keep: Literal["best", "last"] = "best"

    def improves(self, value: float, best: float) -> bool:
        """Whether a value is better than the best before it, by more than the least difference."""
        gain = best - value if self.metric in _BETTER_IF_LOWER else value - best
        return gain > self.min_delta
