"""Signals as arrays: filtered, resampled, cut into pieces of one length, and scaled.

In this order, each channel for itself, in double precision:

1. Gaps (NaN) are bridged by a straight line, so that a filter neither fails nor rings at them, and
   are remembered. A gap at an end is filled with the nearest value.
2. The filter (Butterworth, order 4, forwards and backwards) runs over the whole recording. Beyond
   its ends the recording is taken to go on turned about its end point, for three periods of the
   lowest edge or as long as the recording is.
3. Resampling is polyphase with an anti-aliasing filter (`scipy.signal.resample_poly`), by the
   nearest ratio of whole numbers up to 1000 or so (off by less than 1 in 1,000,000). Beyond its
   ends a recording is taken to go on along the line through them.
4. Pieces are cut, and missing samples, widened to whole samples of the new rate, become zeros.
"""

from __future__ import annotations

import importlib
import math
from fractions import Fraction
from functools import lru_cache
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.study.errors import DataError
from fedward.study.signal_data import Band, SignalData, Sliding

Samples = NDArray[np.float64]
_ORDER = 4
_PERIODS = 3  # of the lowest edge that the recording goes on beyond its ends
_FINEST = 1000  # largest denominator of a ratio of rates, or of its inverse
_MOST_UP, _MOST_DOWN = 100, 10_000  # times
_LARGEST = 1e18  # its square is still a float32
_SHORT = 4  # bytes of whole numbers that float64 holds exactly
_MOST_APART = 2.0  # log2 of two distances between beats, either way


class Prepared(NamedTuple):
    """Signals at the study's rate.

    Attributes:
        samples: Shape (..., channels, time), in the channels' units: float64, or short whole
            numbers as the file has them.
        gaps: Where they are missing, the same shape; None if they are nowhere.
    """

    samples: Samples
    gaps: NDArray[np.bool_] | None


def ratio(rate: float, data: SignalData) -> Fraction:
    """New samples for each sample of a recording.

    Args:
        rate: Of the recording, samples a second.
        data: The study's.

    Raises:
        DataError: The rates are too far apart, or the recording's is too low for the band.
    """
    if not (math.isfinite(rate) and data.rate / _MOST_UP <= rate <= data.rate * _MOST_DOWN):
        raise DataError(
            f"has {rate:g} samples a second, the study {data.rate:g}",
            todo="give recordings of about that rate",
        )
    if data.band is not None and max(data.band.edges) >= rate / 2:
        raise DataError(
            f"has {rate:g} samples a second, too few for a band up to {max(data.band.edges):g} Hz",
            todo="give recordings of a higher rate",
        )
    return _nearest(data.rate, rate)


@lru_cache
def _nearest(new: float, old: float) -> Fraction:
    exact = Fraction(new) / Fraction(old)
    if exact < 1:
        return 1 / (1 / exact).limit_denominator(_FINEST)
    return exact.limit_denominator(_FINEST)


def new_length(length: int, rate: float, data: SignalData) -> int:
    """Samples of a recording after it was resampled."""
    return math.ceil(length * ratio(rate, data))


def prepared(given: NDArray[np.generic], rate: float, data: SignalData) -> Prepared:
    """Filter and resample whole recordings.

    Args:
        given: Shape (..., channels, time), numbers; NaN where one is missing. What is float64 may
            be overwritten.
        rate: Samples a second.
        data: The study's.

    Raises:
        DataError: A sample is infinite, all of a channel is missing, or the rate does not fit.
    """
    by = ratio(rate, data)
    gaps = None
    whole = given.dtype.kind in "iu"
    if whole and given.dtype.itemsize <= _SHORT and by == 1 and data.band is None:
        return Prepared(given, None)  # type: ignore[arg-type]
    samples: Samples = given.astype(np.float64, copy=False)
    if not whole and not math.isfinite(samples.sum()):  # reads once and keeps nothing
        if np.isinf(samples).any():
            raise DataError("a sample is infinite", todo="mend it")
        gaps = np.isnan(samples)
        _bridge(samples, gaps)
    if data.band is not None:
        samples = _filtered(samples, rate, data.band)
    if by != 1:
        samples = _resampled(samples, by)
        gaps = None if gaps is None else _stretched(gaps, by, samples.shape[-1])
    return Prepared(samples, gaps)


def _bridge(samples: Samples, gaps: NDArray[np.bool_]) -> None:
    """Straight lines over gaps, in place; zeros where a channel is missing altogether."""
    time = np.arange(samples.shape[-1])
    for place in np.argwhere(gaps.any(axis=-1)):
        channel, missing = samples[tuple(place)], gaps[tuple(place)]
        if missing.all():
            channel[:] = 0.0
        else:
            channel[missing] = np.interp(time[missing], time[~missing], channel[~missing])


def _scipy() -> ModuleType:
    """`scipy.signal`, which takes long to load, and which nobody needs for tables."""
    return importlib.import_module("scipy.signal")


def _resampled(samples: Samples, by: Fraction) -> Samples:
    mean = samples.mean(axis=-1, keepdims=True)  # on a constant the library's filter ripples
    found: Samples = _scipy().resample_poly(
        samples - mean, by.numerator, by.denominator, axis=-1, padtype="line"
    )
    whole: Samples = found + mean
    return whole


def _filtered(samples: Samples, rate: float, band: Band) -> Samples:
    kind = {(False, True): "lowpass", (True, False): "highpass", (True, True): "bandpass"}
    edges = band.edges if len(band.edges) > 1 else band.edges[0]
    sos = _scipy().butter(
        _ORDER,
        edges,
        btype=kind[band.low is not None, band.high is not None],
        fs=rate,
        output="sos",
    )
    beyond = min(samples.shape[-1] - 1, math.ceil(_PERIODS * rate / min(band.edges)))
    found: Samples = _scipy().sosfiltfilt(sos, samples, axis=-1, padlen=beyond)
    if not np.isfinite(found).all():
        raise DataError(
            f"cannot be filtered at {rate:g} samples a second: the band's lowest edge is too slow",
            todo="give recordings of a lower rate, or change [data] band in the study",
        )
    return found


def _stretched(gaps: NDArray[np.bool_], by: Fraction, length: int) -> NDArray[np.bool_]:
    """Gaps at the new rate: every new sample that touches the time of a missing one."""
    times = np.arange(length) / float(by)
    reach = max(1.0, 1 / float(by))
    first = np.maximum(np.floor(times - reach).astype(np.int64) + 1, 0)
    after = np.minimum(np.ceil(times + reach).astype(np.int64), gaps.shape[-1])
    before = np.concatenate(
        [np.zeros((*gaps.shape[:-1], 1), dtype=np.int64), np.cumsum(gaps, axis=-1)], axis=-1
    )
    return before[..., after] > before[..., np.minimum(first, after)]


def starts(length: int, data: SignalData) -> list[int]:
    """Where a recording's records begin, where it is not cut around annotations.

    Args:
        length: Of the recording at the study's rate, in samples.
        data: The study's.

    Returns:
        Samples; one record that begins at 0, also where the recording is too short for it.
    """
    if not isinstance(data.cut, Sliding):
        return [0]
    beyond = max(length - data.length, 0)
    last = -(-beyond // data.cut.stride) if data.shorter == "pad" else beyond // data.cut.stride
    return [number * data.cut.stride for number in range(last + 1)]


def fits(start: int, length: int, data: SignalData) -> bool:
    """Whether a recording of so many samples has all of the record that begins there."""
    return start >= 0 and start + data.length <= length


def rhythm(marks: Samples, same: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How much longer ago the annotation before is than the one after is away, as log2.

    Args:
        marks: Times of n annotations in the files' order, in any unit, shape (n,).
        same: Which of the n - 1 steps from one to the next stay in one patient's recording.

    Returns:
        Shape (n,), from -2 to 2; 0 where one side is lacking, or does not lie there in time.
    """
    apart = np.diff(marks)
    known = same & (apart > 0)
    found = np.zeros(len(marks), dtype=np.float32)
    both = known[:-1] & known[1:]
    ratio_of_both = apart[:-1][both] / apart[1:][both]
    found[1:-1][both] = np.clip(np.log2(ratio_of_both), -_MOST_APART, _MOST_APART)
    return found


def piece(
    whole: Prepared,
    start: int,
    data: SignalData,
    rhythms: NDArray[np.float32] | float = 0.0,
    into: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """A record as the model sees it.

    Args:
        whole: Recordings at the study's rate.
        start: Where the record begins; below 0 before the recording does.
        data: The study's.
        rhythms: Of each record, shape (...); of no meaning where the study wants none.
        into: Room for what is returned; whatever is in it.

    Returns:
        Shape (..., *data.input_shape).

    Raises:
        DataError: A sample is missing, or too large, and the study refuses that.
    """
    channels, length = len(data.channels), whole.samples.shape[-1]
    first, last = max(start, 0), max(min(start + data.length, length), 0)
    inside = slice(first - start, max(last - start, first - start))
    every = last - first == data.length and data.shorter != "pad"
    found = into
    if found is None:
        found = np.empty((*whole.samples.shape[:-2], *data.input_shape), dtype=np.float32)
    if not every:
        found[...] = 0.0
    part = whole.samples[..., first:last]
    missing = None if whole.gaps is None else whole.gaps[..., first:last]
    if missing is not None and missing.any() and data.gaps == "refuse":
        lacking = missing.reshape(-1, channels, missing.shape[-1]).any(axis=(0, 2))
        raise DataError(
            f"samples are missing in channel {data.channels[int(lacking.argmax())]!r}",
            todo='give whole recordings, or set gaps = "zero" in the study\'s [data]',
        )
    if data.center is not None:
        part = part - np.array(data.center)[:, None]
    place = found[..., :channels, inside]
    with np.errstate(over="ignore"):
        if data.scale is None:
            place[...] = part
        else:  # in double precision, and rounded once
            np.divide(part, np.array(data.scale)[:, None], out=place, casting="same_kind")
    if missing is not None:
        place[missing] = 0.0
    if data.rhythm:
        found[..., channels, inside] = np.asarray(rhythms)[..., None]
    if not (found.min() >= -_LARGEST and found.max() <= _LARGEST):
        raise DataError("a sample is no number of ordinary size", todo="mend it")
    if data.shorter == "pad":
        found[..., -1, inside] = 1.0
    return found
