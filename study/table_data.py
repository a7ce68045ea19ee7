"""Tables: rows of numbers and categories, in a file or put together from a record system."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label, Measured, Scalar, label_text
from fedward.study.frozen import Frozen

_Bound = Annotated[float, Field(ge=-1e15, le=1e15)]
_NARROWEST = 1e-9  # between two bounds
_LARGEST_FILL = 1e15


class Feature(Frozen):
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
    """

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0
    categories: Annotated[tuple[Scalar, ...], Field(min_length=2)] | None = None
    absent: float | None = None
    bounds: tuple[_Bound, _Bound] | None = None
    fill: Scalar | None = None

    @model_validator(mode="after")
    def _one_meaning(self) -> Feature:
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
        low, high = self.bounds
        if not high - low >= _NARROWEST:
            raise ValueError(f"bounds that are at least {_NARROWEST:g} apart, the lower one first")
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
    """

    kind: Literal["table"]
    features: Annotated[dict[str, Feature], Field(min_length=1)]
    label: Label
    missing: Literal["refuse", "drop"] = "refuse"
    scaling: Literal["given", "measured"] = "given"

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
        found, place = [], 0
        for name, feature in self.features.items():
            if feature.bounds is not None:
                absent = None if feature.absent is None else place + 1
                found.append(Measured(name, place, absent, *feature.bounds))
            place += feature.width
        return tuple(found)
