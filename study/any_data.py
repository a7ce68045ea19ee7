"""What every kind of data has in common."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen
from fedward.study.parts import GivenParts, HashedParts, PartsRule
from fedward.study.statistics import Measured, Statistics

Scalar = bool | int | float | str
Label = str | tuple[str, ...]
"""Name of the column that holds the label, or of several where the task has several."""


@lru_cache(maxsize=1024, typed=True)
def label_text(label: object) -> str:
    """One text for 1, 1.0, "1" and "1.0", since files write the same value in many ways."""
    text = str(label).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


class AnyData(Frozen):
    """What every kind of data has in common.

    Attributes:
        class_values: For each class, the raw labels that mean it; if left out, a raw label is the
            number of the class or its name.
        parts: How records are divided into training, validation and test.
        duplicates: What to do with a record whose inputs are another's, number for number: `keep`,
            or `drop` all but the first (counted and said), so that none is both learnt from and
            judged on. Not with privacy on: whether a patient is there would change others' records.
        statistics: A table over all hospitals, told by itself or before the first round; none if
            left out.
    """

    class_values: tuple[tuple[Scalar, ...], ...] | None = None
    parts: Annotated[PartsRule, Field(discriminator="by")] = HashedParts()
    duplicates: Literal["keep", "drop"] = "keep"
    statistics: Statistics | None = None

    @property
    def label_columns(self) -> tuple[str, ...]:
        """Names of the columns that hold the label."""
        label: Label = getattr(self, "label")  # noqa: B009 - each kind has its own default
        return (label,) if isinstance(label, str) else label

    @property
    def validated(self) -> bool:
        """Whether there is a validation part, as far as the study says."""
        return isinstance(self.parts, GivenParts) or self.parts.validation > 0

    @property
    def measured(self) -> tuple[Measured, ...]:
        """The features whose constants are measured before the first round, in their order."""
        return ()

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """What else there are histograms of, in order: columns with a span, or summaries."""
        return ()

    @property
    def wants_span(self) -> bool:
        """Whether only the study can say between which values its data lie."""
        return False

    @property
    def summed(self) -> bool:
        """Whether sums over patients leave before the first round."""
        return bool(self.measured) or self.statistics is not None

    @model_validator(mode="after")
    def _a_span_where_nobody_else_knows(self) -> AnyData:
        if self.statistics is None or self.wants_span == (self.statistics.span is not None):
            return self
        if self.wants_span:
            raise ValueError("a span in statistics: least and largest value as the model sees them")
        raise ValueError("no span in statistics: this kind of data has bounds of its own")

    @model_validator(mode="after")
    def _one_class_a_label(self) -> AnyData:
        named = [label_text(label) for group in self.class_values or () for label in group]
        if len(set(named)) != len(named):
            raise ValueError("each label in one group of class_values only")
        return self
