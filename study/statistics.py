"""Statistics that a study may ask for, and what they are of where a record is no row of numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from fedward.study.frozen import Frozen

_Bound = Annotated[float, Field(ge=-1e15, le=1e15)]
_NARROWEST = 1e-9  # between two bounds


class Statistics(Frozen):
    """A table of statistics that a study may ask for: what leaves are sums over hospitals.

    Of a table's record they are its columns; of any other record a few numbers that sum it up.

    Attributes:
        bins: Of each histogram, of one width between a feature's bounds or span.
        fewest: A cell of fewer patients is shown as fewer than this.
        span: Least and largest value of signals and series as the model sees them; whatever is
            beyond counts as its end. Other kinds of data know their own.
    """

    bins: Annotated[int, Field(ge=2, le=100)] = 10
    fewest: Annotated[int, Field(ge=1, le=1000)] = 10
    span: tuple[_Bound, _Bound] | None = None

    @model_validator(mode="after")
    def _ends_apart(self) -> Statistics:
        if self.span is not None and not self.span[1] - self.span[0] >= _NARROWEST:
            raise ValueError(f"a span whose ends are at least {_NARROWEST:g} apart, low end first")
        return self


class Measured(NamedTuple):
    """A feature whose center and scale are measured, or of which there is a histogram.

    Attributes:
        name: Of the column.
        place: Of its value among the inputs.
        absent: Place of the input that says that there is no value; None if there always is one.
        low: Least value.
        high: Largest value.
        center: Subtracted when it was read.
        scale: Divided by, after that.
    """

    name: str
    place: int
    absent: int | None
    low: float
    high: float
    center: float = 0.0
    scale: float = 1.0

    @property
    def middle(self) -> float:
        """Of the bounds."""
        return self.low + self.half

    @property
    def half(self) -> float:
        """Half the distance of the bounds."""
        return (self.high - self.low) / 2


class Range(NamedTuple):
    """Values of one channel.

    Attributes:
        name: Of the channel; empty where there is only one.
        low: Least value.
        high: Largest value.
        center: Subtracted when they were read.
        scale: Divided by, after that.
    """

    name: str
    low: float
    high: float
    center: float = 0.0
    scale: float = 1.0


QUANTILES = (0.05, 0.95)
"""What `low` and `high` of a channel are."""

OF_A_CHANNEL = ("mean", "deviation", "low", "high")


def summaries(channels: Iterable[Range]) -> tuple[Measured, ...]:
    """Mean, deviation, low and high quantile of each channel, as columns of a table."""
    return tuple(each._replace(place=place) for place, each in enumerate(_summaries(channels)))


def shares(names: Iterable[str], *, after: int = 0) -> tuple[Measured, ...]:
    """Numbers from 0 to 1 as columns of a table, behind so many others."""
    return tuple(Measured(name, after + place, None, 0.0, 1.0) for place, name in enumerate(names))


def _summaries(channels: Iterable[Range]) -> Iterator[Measured]:
    for name, low, high, center, scale in channels:
        for what in OF_A_CHANNEL:
            called = f"{name} {what}".strip()
            if what == "deviation":  # at most half of the range; a center does not move it
                yield Measured(called, 0, None, 0.0, (high - low) / 2, 0.0, scale)
            else:
                yield Measured(called, 0, None, low, high, center, scale)
