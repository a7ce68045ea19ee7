"""Signals: channels over time, as ECG, EEG or pressure monitors give them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedward.study.any_data import AnyData, Label
from fedward.study.frozen import Frozen


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


class Whole(Frozen):
    """A recording is one record, from its start."""

    by: Literal["start"] = "start"


class Sliding(Frozen):
    """A recording is cut into records.

    Attributes:
        stride: Samples from the start of one to the start of the next.
    """

    by: Literal["sliding"]
    stride: Annotated[int, Field(ge=1)]


class Around(Frozen):
    """A record is what surrounds an annotation, whose symbol is its label.

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
        length: Samples of a record.
        cut: How a recording becomes records.
        shorter: What to do with less than `length`: `refuse`, or `pad` with zeros at the end, and
            then one more channel is 1 as long as the recording lasts and 0 after.
        band: Filter, applied to the recording before it is cut and resampled.
        center: Subtracted from each channel, in its own unit; one for each channel.
        scale: Divided by, after that; one for each channel.
        label: Column of the label in the hospital's table, or several.
    """

    kind: Literal["signals"]
    channels: Annotated[tuple[str, ...], Field(min_length=1, max_length=1024)]
    rate: Annotated[float, Field(gt=0, le=1e6)]
    length: Annotated[int, Field(ge=1, le=2**24)]
    cut: Annotated[Whole | Sliding | Around, Field(discriminator="by")] = Whole()
    shorter: Literal["refuse", "pad"] = "refuse"
    band: Band | None = None
    center: tuple[float, ...] | None = None
    scale: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    label: Label = "label"

    @model_validator(mode="after")
    def _one_for_each_channel(self) -> SignalData:
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("each channel once")
        for name, values in (("center", self.center), ("scale", self.scale)):
            if values is not None and len(values) != len(self.channels):
                raise ValueError(f"one {name} for each of the {len(self.channels)} channels")
        if self.band is not None and (self.band.high or 0) >= self.rate / 2:
            raise ValueError("band.high below half the rate")
        if isinstance(self.cut, Around) and self.cut.before > self.length:
            raise ValueError("cut.before <= length")
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one record as the model sees it: channels, time."""
        return (len(self.channels) + (self.shorter == "pad"), self.length)
