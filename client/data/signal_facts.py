"""What a hospital's signals are like, in lines for its own staff."""

from __future__ import annotations

import numpy as np

from fedward.client.data.records import Fact, RawRecords
from fedward.client.data.stored import in_pieces
from fedward.study.signal_data import SignalData

_FAR = 10.0  # scales from a channel's center that are worth a second look


def signal_facts(raw: RawRecords, data: SignalData) -> list[Fact]:
    """The range of each channel in its own unit, values far off, and channels that are flat.

    Args:
        raw: At least one record.
        data: The study's.
    """
    shape = (
        f"{len(data.channels)} channels of {data.length} samples, {data.rate:g} a second "
        f"({data.length / data.rate:g} s)"
    )
    found = [Fact("signals", shape)]
    for place in range(len(data.channels)):
        found += _channel(raw, data, place)
    return found


def _channel(raw: RawRecords, data: SignalData, place: int) -> list[Fact]:
    pieces = [np.asarray(rows)[:, place] for rows in in_pieces(raw.inputs)]
    low = np.concatenate([values.min(axis=1) for values in pieces])
    high = np.concatenate([values.max(axis=1) for values in pieces])
    center = 0.0 if data.center is None else data.center[place]
    scale = 1.0 if data.scale is None else data.scale[place]
    unit = "" if data.units is None else f" {data.units[place]}"
    channel = f"channel {data.channels[place]!r}"
    ends = (float(end) * scale + center for end in (low.min(), high.max()))
    text = f"{channel}: from {{:.4g}} to {{:.4g}}{unit}".format(*ends)
    far = np.maximum(-low, high)
    if data.scale is not None and (many := int((far > _FAR).sum())):
        row = int(raw.rows[far.argmax()]) + 1
        more = (
            f"; {many} records more than {_FAR:g} scales from the study's center, the farthest is "
            f"record {row}; another unit?"
        )
        found = [Fact("look at", text + more)]
    else:
        found = [Fact("", text)]
    if flat := np.flatnonzero(low == high).tolist():
        first = int(raw.rows[flat[0]]) + 1
        said = f"{channel}: flat in {len(flat)} records, the first is record {first}"
        found.append(Fact("look at", f"{said}; was the lead off?"))
    return found
