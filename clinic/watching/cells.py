"""In which cell of each histogram a record is: the same cells as at the hospitals.

A histogram is of an input feature (a number, perhaps with a first cell for those without a value,
or categories) or of what the model says (the score of a class).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedward.models import scores
from fedward.models.tasks.classification import log_odds_of
from fedward.privacy.statistics_table import Categorical, bin_of, categorical_of, numbers_of
from fedward.privacy.summaries import summarized
from fedward.study.scaling import Scaling
from fedward.study.statistics import Measured
from fedward.study.study import Study
from fedward.study.task import ClassTask, MultilabelTask

SCORE_BINS = 16
"""Of a score: each is as many of `models.scores` together."""

Kind = Literal["number", "category", "score"]
Places = NDArray[np.int64]


class Histogram(NamedTuple):
    """What is counted.

    Attributes:
        kind: Of what.
        name: Of the feature, or of the class whose score it is.
        cells: How many.
        placed: The cell of each record, below 0 for none, from its inputs and outputs.
    """

    kind: Kind
    name: str
    cells: int
    placed: Callable[[NDArray[np.float64], torch.Tensor], Places]


def histograms_of(study: Study, scaling: Scaling | None = None) -> tuple[Histogram, ...]:
    """All that can be counted for a study, inputs first.

    Args:
        study: Of the model.
        scaling: The constants that its run measured, which are already in the inputs.
    """
    return (*_of_inputs(study, scaling), *_of_scores(study))


def placed(
    histograms: tuple[Histogram, ...], study: Study, inputs: NDArray[Any], outputs: NDArray[Any]
) -> list[Places]:
    """The cell of each record in each histogram.

    Args:
        histograms: To be counted in.
        study: Of the model.
        inputs: As the model sees them, shape (n, ...).
        outputs: What it says of them, shape (n, ...).
    """
    rows = np.zeros((len(inputs), 0))
    if any(each.kind != "score" for each in histograms):
        rows = summarized(inputs, study.data)
    said = torch.from_numpy(np.array(outputs))
    return [each.placed(rows, said) for each in histograms]


def _of_inputs(study: Study, scaling: Scaling | None) -> Iterator[Histogram]:
    data = study.data
    if data.statistics is None:
        return
    bins = data.statistics.bins
    measured: dict[str, tuple[float, float]] = {}
    if scaling is not None:
        each = zip(data.measured, scaling.centers, scaling.scales, strict=True)
        measured = {feature.name: (center, scale) for feature, center, scale in each}
    for feature in numbers_of(data):
        if feature.name in measured:
            center, scale = measured[feature.name]
            feature = feature._replace(center=center, scale=scale)
        yield Histogram(
            "number", feature.name, bins + (feature.absent is not None), _number(feature, bins)
        )
    for category in categorical_of(data):
        yield Histogram("category", category.name, len(category.categories), _category(category))


def _of_scores(study: Study) -> Iterator[Histogram]:
    task = study.task
    if isinstance(task, ClassTask):
        several = len(task.classes) > 2 or task.kind == "multiclass"
        for number, name in enumerate(task.classes):
            if several or number == 1:
                yield Histogram("score", name, SCORE_BINS, _of_class(number))
    elif isinstance(task, MultilabelTask):
        for number, name in enumerate(task.classes):
            yield Histogram("score", name, SCORE_BINS, _of_finding(number))


def _number(feature: Measured, bins: int) -> Callable[[NDArray[np.float64], torch.Tensor], Places]:
    def place(rows: NDArray[np.float64], _: torch.Tensor) -> Places:
        found, absent = bin_of(rows, feature, bins)
        return found if feature.absent is None else np.where(absent, 0, found + 1)

    return place


def _category(category: Categorical) -> Callable[[NDArray[np.float64], torch.Tensor], Places]:
    own = slice(category.place, category.place + len(category.categories))

    def place(rows: NDArray[np.float64], _: torch.Tensor) -> Places:
        there = rows[:, own] > 0
        return np.where(there.any(axis=1), there.argmax(axis=1), -1).astype(np.int64)

    return place


def _of_class(number: int) -> Callable[[NDArray[np.float64], torch.Tensor], Places]:
    return lambda _, said: scores.bin_of(log_odds_of(said.double(), number), SCORE_BINS).numpy()


def _of_finding(number: int) -> Callable[[NDArray[np.float64], torch.Tensor], Places]:
    return lambda _, said: scores.bin_of(said[:, number], SCORE_BINS).numpy()
