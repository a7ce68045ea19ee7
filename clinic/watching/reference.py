"""What a model was trained on, as histograms that left the hospitals as sums: `reference.json`.

Inputs' histograms are the study's table of statistics, scores' are those that the final model's
figures were computed from. Cells of few are hidden, and others with them, as in the table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from fedward.clinic.finished import MODEL
from fedward.clinic.told import Told
from fedward.clinic.watching.cells import SCORE_BINS, Histogram, Kind, histograms_of
from fedward.models.tasks.classification import Classification
from fedward.models.tasks.multilabel import Multilabel
from fedward.models.tasks.noised_classification import NoisedClassification
from fedward.privacy.model_log import digest_of
from fedward.privacy.small_cells import Cell, Statistics, safe_cells
from fedward.study.errors import DataError, OptionError
from fedward.study.frozen import Fault, Frozen, validate
from fedward.study.study import Study

FEWEST = 10
"""Cells of fewer are hidden where the study says nothing, and in what a service shows."""

_LARGEST = 64 << 20  # bytes of a file
_Count = Annotated[int, Field(ge=0)]
_Read = TypeVar("_Read", bound=BaseModel)


class Expected(Frozen):
    """One histogram.

    Attributes:
        kind: Of what.
        name: Of the feature, or of the class whose score it is.
        cells: Patients (of scores: records) in each; None where it is hidden.
        hidden: How many are in the hidden cells together.
        deviation: Standard deviation of the noise in each cell.
    """

    kind: Kind
    name: str
    cells: tuple[_Count | None, ...]
    hidden: _Count = 0
    deviation: Annotated[float, Field(ge=0)] = 0.0

    @property
    def known(self) -> bool:
        """Whether there is anything to compare with."""
        return any(self.cells)


class Reference(Frozen):
    """The file.

    Attributes:
        format: Of the file.
        study: Digest of the study.
        fewest: A cell of fewer is hidden.
        histograms: Of inputs and of scores.
        judged: The model's test metrics when it was judged, by name.
        model: SHA-256 of the run's model file; None in older references.
    """

    format: Literal[1] = 1
    study: str
    fewest: Annotated[int, Field(ge=1)]
    histograms: tuple[Expected, ...]
    judged: dict[str, float] = Field(default_factory=dict)
    model: str | None = None

    def document(self) -> bytes:
        """As JSON."""
        unknown = {"model"} if self.model is None else set[str]()  # as older ones have it
        values = self.model_dump(mode="json", exclude=unknown)
        return json.dumps(values, allow_nan=False).encode() + b"\n"

    def is_of(self, study: str, model: str | None) -> bool:
        """Whether it is of a run of that study, and of that model file, if both say of which."""
        return self.study == study and (None in (self.model, model) or self.model == model)

    def of(self, study: Study) -> dict[tuple[Kind, str], Expected]:
        """The histograms by kind and name.

        Raises:
            ValueError: They are another study's, or of other cells than its.
        """
        if self.study != study.digest():
            raise ValueError(f"is of study {self.study[:12]}, not of {study.digest()[:12]}")
        found = {(each.kind, each.name): each for each in self.histograms}
        sizes = {(h.kind, h.name): h.cells for h in histograms_of(study)}
        if len(found) < len(self.histograms) or any(
            len(each.cells) != sizes.get(key) for key, each in found.items()
        ):
            raise ValueError("has histograms that its study does not")
        return found


def reference_of(run: Told, statistics: Statistics | None) -> Reference:
    """What is expected of a run's model, as far as its folder and the table tell.

    Args:
        run: A finished run.
        statistics: The study's table over all hospitals; without it only scores are expected.

    Raises:
        OptionError: The table is another study's, or there is nothing to compare with.
    """
    asked = run.study.data.statistics
    if statistics is not None and statistics.study != run.study.digest():
        said = "does not say whose it is" if statistics.study is None else "is another study's"
        raise OptionError(
            f"the table of statistics {said}",
            todo="make it of the run's own study.toml: fedward stats, or fedward aggregator "
            "submit --statistics",
        )
    fewest = FEWEST if asked is None else asked.fewest
    inputs = [] if statistics is None else list(_inputs(run.study, statistics))
    found = [*inputs, *_scores(run, fewest)]
    if not any(each.known for each in found):
        raise OptionError(
            "nothing is known of what the model was trained on",
            todo="give --statistics with the study's table (fedward stats STUDY --out FILE); "
            "scores need a run of this version",
            where=str(run.folder),
        )
    figures = {
        name: float(value)
        for name, value in run.federation.test.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    return Reference(
        study=run.study.digest(),
        fewest=fewest,
        histograms=tuple(found),
        judged=figures,
        model=digest_of(run.folder / MODEL),
    )


def read_reference(path: Path) -> Reference:
    """Read a reference.

    Raises:
        OptionError: There is no such file.
        DataError: It is no reference.
    """
    found = validate(Reference, _json(path))
    if isinstance(found, Fault):
        raise DataError(
            f"{found.key} = {found.given}; allowed: {found.allowed}",
            todo="give a file that fedward reference wrote",
            where=str(path),
        )
    return found


def read_statistics(path: Path) -> Statistics:
    """Read a table of statistics, as `fedward stats --out` writes it.

    Raises:
        OptionError: There is no such file.
        DataError: It is no such table.
    """
    try:
        return Statistics.model_validate(_json(path))
    except ValidationError as error:
        raise DataError(
            f"is no table of statistics ({error.errors()[0]['type']})",
            todo="give a file that fedward stats --out wrote",
            where=str(path),
        ) from None


def _json(path: Path) -> dict[str, object]:
    if not path.is_file():
        raise OptionError("no such file", todo="check the path", where=str(path))
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError("too large")
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot be read as JSON ({type(error).__name__})",
            todo="take it from where it was written again",
            where=str(path),
        ) from None
    return found


def _inputs(study: Study, table: Statistics) -> Iterator[Expected]:
    for histogram in histograms_of(study):
        cells: list[Cell] = []
        if histogram.kind == "number" and histogram.name in table.numbers:
            number = table.numbers[histogram.name]
            cells = [*number.cells]
            if histogram.cells > len(cells):  # a first cell, for those without a value
                cells.insert(0, number.absent)
        elif histogram.kind == "category":
            cells = [*table.categories.get(histogram.name, {}).values()]
        if len(cells) == histogram.cells:
            yield _expected(histogram, cells, table.patients, table.deviation)


def _scores(run: Told, fewest: int) -> Iterator[Expected]:
    """Of all parts that judged the model: nobody was trained on."""
    task, sums = run.task, run.sums or {}
    judged = [found for name, found in sums.items() if name.startswith("federated.")]
    if not judged or not isinstance(task, Classification | Multilabel):
        return
    total = np.sum(judged, axis=0)
    noise = 0.0
    if isinstance(task, NoisedClassification):  # each cell is a sum of two
        noise = task.deviation * math.sqrt(2 * len(judged) * run.study.participation.hospitals)
    own = [each for each in histograms_of(run.study) if each.kind == "score"]
    for histogram, (without, having) in zip(own, task.scored(total), strict=True):
        counts = (without + having).reshape(SCORE_BINS, -1).sum(axis=1)
        cells = safe_cells(counts.tolist(), fewest)
        yield _expected(histogram, cells, round(float(counts.sum())), noise)


def _expected(histogram: Histogram, cells: list[Cell], whole: int, noise: float) -> Expected:
    known = [cell if isinstance(cell, int) else None for cell in cells]
    rest = max(whole - sum(cell or 0 for cell in known), 0) if None in known else 0
    return Expected(
        kind=histogram.kind,
        name=histogram.name,
        cells=tuple(known),
        hidden=rest,
        deviation=noise,
    )
