"""Tables: rows of numbers and categories, in a file or put together from a record system."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label, Scalar, label_text
from fedward.study.origins import Index, Origin, refuse_leaky
from fedward.study.statistics import Measured

_Bound = Annotated[float, Field(ge=-1e15, le=1e15)]
_NARROWEST = 1e-9  # between two bounds
_LARGEST_FILL = 1e15


class Feature(Origin):
    """One column of a table.

    Attributes:
        center: Subtracted from a number.
        scale: Divided by, after that.
        categories: The column's values, if it is no number: one 0/1 input for each.
        absent: A number that means "not measured": the input is then 0, and a second input is 1.
        bounds: Least and largest value, public; whatever is beyond counts as the bound. Center and
            scale are then measured before the first round, where the study's scaling is `measured`.
        fill: What a missing value becomes: a number, or one of the categories. Where it is the
            number of `absent`, the second input tells the model so. Without it the study's
            `missing` says what becomes of the row.
        span: Least and largest value of the feature's histogram where it has no bounds; whatever is
            beyond counts as its end there, and nowhere else.
        fhir: Where it comes from in FHIR records.
        omop: Where it comes from in an OMOP database.
    """

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    categories: Annotated[tuple[Scalar, ...], Field(min_length=2)] | None = None
    absent: float | None = None
    bounds: tuple[_Bound, _Bound] | None = None
    fill: Scalar | None = None
    span: tuple[_Bound, _Bound] | None = None

    @model_validator(mode="after")
    def _a_span_of_its_own(self) -> Feature:
        if self.span is None:
            return self
        if self.bounds is not None or self.categories is not None:
            raise ValueError("one of span, bounds and categories")
        _refuse_narrow("span", *self.span)
        return self

    @model_validator(mode="after")
    def _one_meaning_of_numbers(self) -> Feature:
        numeric = (self.center, self.scale, self.absent) != (0.0, 1.0, None)
        if self.categories is not None and numeric:
            raise ValueError("either categories, or center, scale and absent")
        named = [label_text(category) for category in self.categories or ()]
        if len(set(named)) != len(named):
            raise ValueError("each category once")
        if self.bounds is None:
            return self
        if self.categories is not None or (self.center, self.scale) != (0.0, 1.0):
            raise ValueError("either bounds, or center and scale, or categories")
        _refuse_narrow("bounds", *self.bounds)
        return self

    @model_validator(mode="after")
    def _fill_means_something(self) -> Feature:
        if self.fill is None:
            return self
        if self.categories is not None:
            if label_text(self.fill) not in map(label_text, self.categories):
                raise ValueError(f"a fill that is one of the categories, not {self.fill!r}")
            return self
        if isinstance(self.fill, bool | str) or not abs(self.fill) <= _LARGEST_FILL:
            raise ValueError(f"a fill that is a number, not {self.fill!r}")
        if self.bounds and self.fill != self.absent:
            low, high = self.bounds
            if not low <= self.fill <= high:
                raise ValueError(f"a fill within the bounds, not {self.fill:g}")
        return self

    @property
    def width(self) -> int:
        """Inputs of the model that this column becomes."""
        if self.categories is not None:
            return len(self.categories)
        return 1 if self.absent is None else 2


class TableData(AnyData):
    """Rows of numbers and categories.

    Attributes:
        features: The columns in the order of the model's inputs.
        label: The column that holds the label; several where the task has several.
        missing: What to do with a row that lacks a value: `refuse` or `drop` (counted and said).
            A feature's own `fill` comes first.
        scaling: Where center and scale come from: `given`, or `measured` over all hospitals before
            the first round, for the features with bounds.
        index: In a record system, each patient's moment between features and label.
        label_from: Where a column of the label comes from in a record system.
    """

    kind: Literal["table"]
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    label: Label
    missing: Literal["refuse", "drop"] = "refuse"
    scaling: Literal["given", "measured"] = "given"
    index: Index | None = None
    label_from: dict[str, Origin] | None = None

    @model_validator(mode="after")
    def _nothing_from_after_the_label(self) -> TableData:
        refuse_leaky(dict(self.features), origins_of_labels(self), self.index)
        return self

    @model_validator(mode="after")
    def _a_span_for_statistics(self) -> TableData:
        spans = any(feature.span is not None for feature in self.features.values())
        if spans and self.statistics is None:
            raise ValueError("a span of features only together with statistics")
        return self

    @model_validator(mode="after")
    def _bounds_where_measured(self) -> TableData:
        bounded = any(feature.bounds is not None for feature in self.features.values())
        if bounded != (self.scaling == "measured"):
            raise ValueError('bounds of features and scaling = "measured" together, or neither')
        return self

    @model_validator(mode="after")
    def _label_apart(self) -> TableData:
        if both := [name for name in self.label_columns if name in self.features]:
            raise ValueError(f"a label that is no feature, but {both[0]!r} is both")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it."""
        return (sum(feature.width for feature in self.features.values()),)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The features whose constants are measured before the first round, in their order."""
        return tuple(self._numbers_with("bounds"))

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """The features that have a span for statistics, in their order."""
        return tuple(self._numbers_with("span"))

    def _numbers_with(self, key: Literal["bounds", "span"]) -> Iterator[Measured]:
        place = 0
        for name, feature in self.features.items():
            ends = feature.bounds if key == "bounds" else feature.span
            if ends is not None:
                absent = None if feature.absent is None else place + 1
                yield Measured(name, place, absent, *ends, feature.center, feature.scale)
            place += feature.width


def origins_of_labels(data: AnyData) -> dict[str, Origin]:
    """Where each column of the label comes from; an empty origin where nothing is said.

    Raises:
        ValueError: `label_from` names a column that is no label.
    """
    given: dict[str, Origin] = getattr(data, "label_from", None) or {}
    if strange := [name for name in given if name not in data.label_columns]:
        raise ValueError(f"in label_from columns of the label only, not {strange[0]!r}")
    return {name: given.get(name, Origin()) for name in data.label_columns}


def _refuse_narrow(what: str, low: float, high: float) -> None:
    if not high - low >= _NARROWEST:
        raise ValueError(f"{what} that are at least {_NARROWEST:g} apart, the lower one first")
