"""A few numbers that sum up a record: what there are histograms of where it is no row of a table.

Of a picture's or signal's channel: mean, standard deviation, and the quantiles below and above
which one in twenty values lies. Of tokens: how much of the length is filled, how many differ, how
many are unknown, and of sequences the share of each letter. Hospitals count their own records so,
and a service counts what it is asked, over the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.study.data import Data
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.statistics import QUANTILES
from fedward.study.table_data import TableData
from fedward.study.token_data import FIRST, UNKNOWN, SequenceData, TextData

Doubles = NDArray[np.float64]
_AT_ONCE = 2**22  # numbers that are worked on


def summarized(inputs: NDArray[Any], data: Data) -> Doubles:
    """The columns that `data.spanned` speaks of, shape (n, columns); a table's own as they are.

    Args:
        inputs: As the model sees them, shape (n, *input_shape); the last axis of tokens and of
            signals may have another length.
        data: The study's.
    """
    if isinstance(data, TableData):
        return inputs.astype(np.float64)
    work = _work(data)
    most = max(1, _AT_ONCE // max(1, inputs[:1].size))
    pieces = [work(inputs[start : start + most]) for start in range(0, len(inputs), most)]
    return np.concatenate(pieces) if pieces else np.zeros((0, len(data.spanned)))


def _work(data: Data) -> Callable[[NDArray[Any]], Doubles]:
    match data:
        case TextData():
            return lambda tokens: _tokens(tokens, data.length, unknown=data.tokenizer is None)
        case SequenceData():
            letters = sum(feature.name.startswith("share of ") for feature in data.spanned)
            return lambda tokens: _tokens(tokens, data.length, unknown=True, letters=letters)
        case SeriesData():
            return _series
        case SignalData():
            return lambda inputs: _channels(inputs[:, : len(data.channels)])
    return _channels


def _channels(inputs: NDArray[Any]) -> Doubles:
    """Mean, deviation, low and high quantile of each channel, shape (n, 4 x channels)."""
    flat = inputs.reshape(*inputs.shape[:2], -1).astype(np.float64)
    low, high = np.quantile(flat, QUANTILES, axis=2)
    each = np.stack([flat.mean(axis=2), flat.std(axis=2), low, high], axis=2)
    return each.reshape(len(inputs), -1)


def _series(inputs: NDArray[Any]) -> Doubles:
    """Every second channel says whether there is a value."""
    there = inputs[:, 1::2].astype(np.float64).mean(axis=2)
    return np.concatenate([_channels(inputs[:, ::2]), there], axis=1)


def _tokens(tokens: NDArray[Any], length: int, *, unknown: bool, letters: int = 0) -> Doubles:
    filled = tokens != 0
    count = filled.sum(axis=1)
    several = np.maximum(count, 1)
    ordered = np.sort(tokens, axis=1)
    different = ((ordered != 0) & (np.diff(ordered, axis=1, prepend=0) != 0)).sum(axis=1)
    columns = [np.minimum(count / length, 1.0), different / several]
    if unknown:
        columns.append((tokens == UNKNOWN).sum(axis=1) / several)
    columns += [(tokens == FIRST + n).sum(axis=1) / several for n in range(letters)]
    return np.stack(columns, axis=1).astype(np.float64)
