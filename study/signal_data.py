"""Signals: channels over time, as ECG, EEG or pressure monitors give them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label
from fedward.study.frozen import Frozen
from fedward.study.statistics import Measured, Range, summaries


class Band(Frozen):
    """A Butterworth filter of order 4, forwards and backwards, so that nothing is shifted.

    Attributes:
        low: Slowest frequency that passes, Hz; all slow ones if left out.
        high: Fastest frequency that passes, Hz; all fast ones if left out.
    """

    low: Annotated[float, Field(gt=0)] | None = None
    high: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _something(self) -> Band:
        if self.low is None and self.high is None:
            raise ValueError("low or high or both")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low < high")
        return self

    @property
    def edges(self) -> tuple[float, ...]:
        """What is given of low and high, Hz."""
        return tuple(edge for edge in (self.low, self.high) if edge is not None)


class Whole(Frozen):
    """A recording is one record: its first `length` samples; what comes after is not used."""

    by: Literal["start"] = "start"


class Sliding(Frozen):
    """A recording is cut into records from its start on; an end that fills none is left out.

    With `shorter = "pad"` the end becomes a record too.

    Attributes:
        stride: Samples from the start of one to the start of the next.
    """

    by: Literal["sliding"]
    stride: Annotated[int, Field(ge=1)]


class Around(Frozen):
    """A record is what surrounds an annotation, whose symbol is its label.

    Annotations whose symbol means no class make no record, and are counted.

    Attributes:
        before: Samples of the record that lie before the annotation.
    """

    by: Literal["annotation"]
    before: Annotated[int, Field(ge=0)]


class SignalData(AnyData):
    """Pieces of recordings, with the same channels, rate and length everywhere.

    Attributes:
        channels: Their names, in the order of the model's inputs; a hospital says which of its own
            they are.
        rate: Samples a second of the records; recordings of another rate are resampled.
        units: Of each channel, such as `mV`; files in other prefixes of V, A or Pa are converted,
            and others refused. If left out, whatever unit a file has is taken.
        length: Samples of a record.
        cut: How a recording becomes records.
        shorter: What to do with a record for which the recording has not `length` samples:
            `refuse`, `drop` (counted and said), or `pad` with zeros where the recording is not,
            and then one more channel is 1 where it is, and 0 elsewhere.
        gaps: What to do with a record in which a sample is missing: `refuse`, or it is `zero`
            after scaling.
        band: Filter, applied to the whole recording before it is resampled and cut.
        center: Subtracted from each channel, in its own unit; one for each channel.
        scale: Divided by, after that; one for each channel.
        rhythm: Whether a record has one more channel, the same at all its samples: the logarithm
            to base 2 of the time since the annotation before its own over the time until the one
            after, at most 2 either way; 0 where there is none on one side.
        label: Column of the label in the hospital's table, or several.
    """

    kind: Literal["signals"]
    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)]
    rate: Annotated[float, Field(gt=0, le=1e6)]
    units: tuple[str, ...] | None = None
    length: Annotated[int, Field(ge=1, le=2**24)]
    cut: Annotated[Whole | Sliding | Around, Field(discriminator="by")] = Whole()
    shorter: Literal["refuse", "drop", "pad"] = "refuse"
    gaps: Literal["refuse", "zero"] = "refuse"
    band: Band | None = None
    center: tuple[float, ...] | None = None
    scale: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    rhythm: bool = False
    label: Label = "label"

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> SignalData:
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("each channel once")
        for name, values in (
            ("unit", self.units),
            ("center", self.center),
            ("scale", self.scale),
        ):
            if values is not None and len(values) != len(self.channels):
                raise ValueError(f"one {name} for each of the {len(self.channels)} channels")
        if self.band is not None and max(self.band.edges) >= self.rate / 2:
            raise ValueError("the band's edges below half the rate")
        if isinstance(self.cut, Around) and self.cut.before > self.length:
            raise ValueError("cut.before <= length")
        if self.rhythm and isinstance(self.cut, Sliding):
            raise ValueError("rhythm only where a record is of one annotation, or of one signal")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it: channels, rhythm, padding; time."""
        more = self.rhythm + (self.shorter == "pad")
        return (len(self.channels) + more, self.length)

    @property
    def wants_span(self) -> bool:
        """Channels may be in any unit."""
        return True

    @property
    def spanned(self) -> tuple[Measured, ...]:
        """What sums up each channel, scaled as the model sees it."""
        low, high = (self.statistics and self.statistics.span) or (0.0, 1.0)
        several = len(self.channels) > 1
        return summaries(Range(name if several else "", low, high) for name in self.channels)
