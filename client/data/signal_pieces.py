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


class Prepared(NamedTuple):
    """Signals at the study's rate.

    Attributes:
        samples: Shape (..., channels, time), float64, in the channels' units.
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
    exact = Fraction(data.rate) / Fraction(rate)
    if exact < 1:
        return 1 / (1 / exact).limit_denominator(_FINEST)
    return exact.limit_denominator(_FINEST)


def new_length(length: int, rate: float, data: SignalData) -> int:
    """Samples of a recording after it was resampled."""
    return math.ceil(length * ratio(rate, data))


def prepared(samples: Samples, rate: float, data: SignalData) -> Prepared:
    """Filter and resample whole recordings.

    Args:
        samples: Shape (..., channels, time); NaN where one is missing. It may be overwritten.
        rate: Samples a second.
        data: The study's.

    Raises:
        DataError: A sample is infinite, all of a channel is missing, or the rate does not fit.
    """
    by = ratio(rate, data)
    gaps = None
    if not math.isfinite(samples.sum()):  # reads once and keeps nothing
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


def piece(whole: Prepared, start: int, data: SignalData) -> NDArray[np.float32]:
    """A record as the model sees it.

    Args:
        whole: Recordings at the study's rate.
        start: Where the record begins; below 0 before the recording does.
        data: The study's.

    Returns:
        Shape (..., *data.input_shape).

    Raises:
        DataError: A sample is missing, or too large, and the study refuses that.
    """
    channels, length = len(data.channels), whole.samples.shape[-1]
    first, last = max(start, 0), max(min(start + data.length, length), 0)
    inside = slice(first - start, max(last - start, first - start))
    every = last - first == data.length and data.shorter != "pad"
    found = (np.empty if every else np.zeros)(
        (*whole.samples.shape[:-2], *data.input_shape), dtype=np.float32
    )
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
    if data.scale is not None:
        part = part / np.array(data.scale)[:, None]
    if missing is not None:
        part = np.where(missing, 0.0, part)
    with np.errstate(over="ignore"):
        found[..., :channels, inside] = part
    if not (found.min() >= -_LARGEST and found.max() <= _LARGEST):
        raise DataError("a sample is no number of ordinary size", todo="mend it")
    if data.shorter == "pad":
        found[..., channels, inside] = 1.0
    return found
