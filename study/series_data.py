"""Series: what a record system knows of a patient over time, in bins of one width."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label
from fedward.study.origins import Index, Origin, refuse_leaky
from fedward.study.statistics import Measured, Range, shares, summaries
from fedward.study.table_data import origins_of_labels

_WITHOUT_TIME = ("age", "gender", "deceased", "onset")


class SeriesFeature(Origin):
    """What is looked for in each bin.

    Attributes:
        center: Subtracted from a value.
        scale: Divided by, after that.
        fhir: Where it comes from in FHIR records; `take` is within each bin.
        omop: Where it comes from in an OMOP database.
    """

    center: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _over_time(self) -> SeriesFeature:
        if self.take in (None, *_WITHOUT_TIME):
            raise ValueError("fhir or omop with events over time: no patient and no onset")
        return self


class SeriesData(AnyData):
    """One series for each patient: the bins before the index, the oldest first.

    Channel 2 i is the value of feature i, 0 where a bin has none; channel 2 i + 1 is 1 where it has
    one, else 0.

    Attributes:
        features: What is looked for, in the order of the channels.
        bins: How many.
        hours: Width of a bin; the last one ends where `index.gap` begins.
        index: Each patient's moment between features and label.
        label: Name of the label, or several names where the task has several.
        label_from: Where each comes from.
        missing: What to do with a patient who lacks a label: `refuse` or `drop` (counted and said).
    """

    kind: Literal["series"]
    features: Annotated[dict[str, SeriesFeature], Field(min_length=1)]
    bins: Annotated[int, Field(ge=1, le=65536)]
    hours: Annotated[float, Field(gt=0, le=1e6)]
    index: Index
    label: Label
    label_from: dict[str, Origin]
    missing: Literal["refuse", "drop"] = "refuse"

    @model_validator(mode="after")
    def _nothing_from_after_the_label(self) -> SeriesData:
        refuse_leaky(dict(self.features), origins_of_labels(self), self.index)
        if self.index.before is not None:
            raise ValueError("bins and hours say how far back it goes, not index.before")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it: channels, time."""
        return (2 * len(self.features), self.bins)

    @property
    def wants_span(self) -> bool:
        """Features may be in any unit."""
        return True

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """What sums up each feature, scaled as the model sees it, and the share of bins with it."""
        low, high = (self.statistics and self.statistics.span) or (0.0, 1.0)
        values = summaries(Range(name, low, high) for name in self.features)
        return (*values, *shares([f"{name} there" for name in self.features], after=len(values)))
