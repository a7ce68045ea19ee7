"""WFDB records, PhysioNet's format: a text header, files of samples, files of annotations.

The `wfdb` package reads them. It would also fetch records from the network, follow names in a
header to any file, and allocate what a header asks for; so each header is checked here first:
names are plain and in the record's folder, and the files are as long as it says. What a header says
in comments (age, sex, diagnoses) is read by nobody.

A signal with several samples a frame is averaged in each frame, as `wfdb.rdrecord` does.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.extras import need
from fedward.client.data.records import RawRecords
from fedward.client.data.signal_files import inside, key_of, list_recordings
from fedward.client.data.signals import (
    MOST_SAMPLES,
    Recording,
    Whose,
    find_channels,
    signal_records,
    unit_factor,
    wants_signals,
)
from fedward.client.data.sources import WfdbSource
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

T = TypeVar("T")

_PLAIN = re.compile(r"[A-Za-z0-9_][\w+.-]{0,200}", re.ASCII)
_LARGEST_HEADER, _LARGEST_ANNOTATIONS = 2**22, 2**26  # bytes
_MOST_SEGMENTS = 100_000
_MEND = "replace the record, or take it out"
# Bytes of a sample; https://physionet.org/physiotools/wag/signal-5.htm
_BYTES = {
    **{name: Fraction(1) for name in ("8", "80")},
    **{name: Fraction(2) for name in ("16", "61", "160")},
    **{"212": Fraction(3, 2), "310": Fraction(4, 3), "311": Fraction(4, 3)},
    **{"24": Fraction(3), "32": Fraction(4)},
}
_COMPRESSED = {"508", "516", "524"}  # FLAC
_RATE = 250  # where a header says none
_END = b"\0\0"  # of annotations; https://physionet.org/physiotools/wag/annot-5.htm

# https://physionet.org/physiotools/wag/header-5.htm
_NUMBER = r"-?\d{1,18}"
_REAL = r"\d{1,18}(?:\.\d*)?(?:[eE][+-]?\d{1,3})?"
_FIRST = re.compile(
    rf"[\w+-]+(?:/(?P<segments>\d{{1,18}}))?\s+(?P<signals>\d{{1,18}})"
    rf"(?:\s+(?P<rate>{_REAL})(?:/-?{_REAL})?(?:\(-?{_REAL}\))?"
    r"(?:\s+(?P<length>\d{1,18})(?:\s+[\d:.]+(?:\s+\d+/\d+/\d+)?)?)?)?",
    re.ASCII,
)
_SIGNAL = re.compile(
    r"(?P<file>\S+)\s+(?P<kind>\d{1,4})(?:x(?P<in_frame>\d{1,18}))?(?::(?P<skew>\d{1,18}))?"
    rf"(?:\+(?P<offset>\d{{1,18}}))?(?:\s+(?P<gain>-?{_REAL})(?:\({_NUMBER}\))?(?:/(?P<unit>\S{{1,100}}))?"
    rf"(?:\s+{_NUMBER}){{0,5}}(?:\s+(?P<name>.*))?)?",
    re.ASCII,
)
_SEGMENT = re.compile(r"(?P<name>\S+)\s+(?P<length>\d{1,18})", re.ASCII)


class _Signal(NamedTuple):
    file: str
    kind: str
    in_frame: int
    skew: int
    offset: int  # bytes
    unit: str
    name: str


class _Header(NamedTuple):
    channels: int
    rate: float
    length: int  # 0 if it is not said
    signals: list[_Signal]
    segments: list[tuple[str, int]]


def read_wfdb(source: WfdbSource, study: Study, context: Context) -> RawRecords:
    """The pieces of recordings that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of records that cannot be used.

    Raises:
        DataError: A file, a record or a label is not as the study needs it; the message names it.
        OptionError: The package wfdb is not installed.
    """
    folder = (context.folder / source.path).absolute()
    data = wants_signals(study, str(folder))
    if "::" in str(folder) or "://" in str(folder):  # fsspec, through which wfdb opens files
        raise DataError("is a path that would be taken for an address", where=str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wfdb 4.3 uses what pandas 4 will take away
        wfdb = need("wfdb", extra="signals")
    listed = list_recordings(folder, source, study, lambda: _records_of(folder))
    return signal_records(
        listed,
        lambda one: _opened(wfdb, folder, one, source, data),
        source,
        study,
        context,
        str(folder),
    )


def _records_of(folder: Path) -> list[str]:
    """Records of a folder and those below, without the segments that other records are made of."""
    headers = sorted(folder.rglob("*.hea"))
    names = [header.relative_to(folder).with_suffix("").as_posix() for header in headers]
    segments: set[str] = set()
    for header, name in zip(headers, names, strict=True):
        try:
            lines = _lines(header)
        except DataError:  # told when the record is opened
            continue
        if "/" in lines[0].split()[0]:
            before, slash, _ = name.rpartition("/")
            segments |= {f"{before}{slash}{line.split()[0]}" for line in lines[1:]}
    return [name for name in names if name not in segments]


def _opened(wfdb: Any, folder: Path, one: Whose, source: WfdbSource, data: SignalData) -> Recording:  # noqa: ANN401
    name = one.name.removesuffix(".hea")
    if not all(_PLAIN.fullmatch(step) for step in name.split("/")):
        raise DataError("is no name of a record", todo="give names of letters and digits")
    path = inside(folder, f"{name}.hea")
    header = _header(path)
    rate, length = header.rate, header.length
    if header.segments:
        files, names, units = _segments(path, header)
    else:
        length = _checked_files(path, header)
        files = [signal.file for signal in header.signals]
        names = [signal.name for signal in header.signals]
        units = [[signal.unit for signal in header.signals]]
    channels = find_channels(names, source, data)
    if length * len(channels) > MOST_SAMPLES:
        raise DataError(f"{length} samples of {len(channels)} channels are too many", todo=_MEND)
    factors = [
        {unit_factor(of[channel], place, data) for of in units}
        for place, channel in enumerate(channels)
    ]
    if any(len(factor) != 1 for factor in factors):
        raise DataError("segments have different units", todo=_MEND)
    marks: NDArray[np.float64] | None = None
    symbols: list[str] = []
    key = key_of(path, name)
    if isinstance(data.cut, Around) and source.annotations is not None:
        marks, symbols = _annotations(wfdb, folder, name, source.annotations, rate)
    return Recording(
        name=name,
        key=" ".join([key, *(key_of(path.parent / file, file) for file in dict.fromkeys(files))]),
        rates=(rate,) * len(channels),
        lengths=(length,) * len(channels),
        read=partial(_samples, wfdb, path, channels, [factor.pop() for factor in factors]),
        marks=marks,
        symbols=symbols,
    )


def _samples(
    wfdb: Any,  # noqa: ANN401
    header: Path,
    channels: list[int],
    factors: Sequence[float],
) -> NDArray[np.float64]:
    record = _quietly(
        lambda: wfdb.rdrecord(str(header.with_suffix("")), channels=channels, warn_empty=False)
    )
    physical = record.p_signal
    if physical is None or physical.ndim != 2 or physical.shape[1] != len(channels):
        raise DataError("cannot be read as a WFDB record", todo=_MEND)
    samples: NDArray[np.float64] = physical.T
    return samples if set(factors) == {1.0} else samples * np.array(factors)[:, None]


def _quietly(read: Callable[[], T]) -> T:
    """What wfdb reads of a file that may be broken in any way."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return read()
    except (DataError, MemoryError):
        raise
    except Exception as error:  # it raises whatever its parsing meets
        raise DataError(
            f"cannot be read as a WFDB record ({type(error).__name__})", todo=_MEND
        ) from None


# --- Headers --------------------------------------------------------------------------------------


def _lines(path: Path) -> list[str]:
    """A header's lines without its comments; at least one."""
    if path.stat().st_size > _LARGEST_HEADER:
        raise DataError("is too large for a header", todo=_MEND)
    text = path.read_bytes().decode("ascii", errors="ignore")
    lines = [line.strip() for line in text.splitlines()]
    lines = [line.split("#")[0].strip() for line in lines if line and not line.startswith("#")]
    if not lines or not all(lines):
        raise DataError("is no WFDB header", todo=_MEND)
    return lines


def _header(path: Path) -> _Header:
    """A header of which every name is plain and every number possible.

    The package's own reading of it takes as long as all samples, so it is left to `rdrecord`.
    """
    first, *lines = _lines(path)
    names = [line.split()[0] for line in lines]
    for number, name in enumerate(names):
        if name != "~" and not _PLAIN.fullmatch(name):
            raise DataError(
                f"line {number + 2} of the header names no file in the record's folder", todo=_MEND
            )
    said = _FIRST.fullmatch(first)
    if said is None:
        raise DataError("the header's first line is not understood", todo=_MEND)
    many = int(said["segments"] or said["signals"])
    if many != len(lines) or not lines:
        raise DataError(f"the header says {many}, and describes {len(lines)}", todo=_MEND)
    rate = float(said["rate"] or _RATE)
    if not 0 < rate < 1e9:
        raise DataError("the header says no possible rate", todo=_MEND)
    length = int(said["length"] or 0)
    if said["segments"] is not None:
        segments = [_matched(_SEGMENT, line) for line in lines]
        each = [(one["name"], int(one["length"])) for one in segments]
        return _Header(int(said["signals"]), rate, length, [], each)
    signals = [_signal(_matched(_SIGNAL, line)) for line in lines]
    return _Header(many, rate, length, signals, [])


def _matched(pattern: re.Pattern[str], line: str) -> re.Match[str]:
    found = pattern.fullmatch(line)
    if found is None:
        raise DataError("a line of the header is not understood", todo=_MEND)
    return found


def _signal(line: re.Match[str]) -> _Signal:
    if not math.isfinite(float(line["gain"] or 0)):
        raise DataError(f"the header says a gain of {line['gain']}", todo=_MEND)
    return _Signal(
        file=line["file"],
        kind=line["kind"],
        in_frame=int(line["in_frame"] or 1),
        skew=int(line["skew"] or 0),
        offset=int(line["offset"] or 0),
        unit=line["unit"] or "mV",
        name=(line["name"] or "").strip(),
    )


def _checked_files(path: Path, header: _Header) -> int:
    """The frames of a record of one segment, for which its files are long enough.

    Raises:
        DataError: A file is not there or is too short, or a number is impossible.
    """
    length = header.length
    for file in dict.fromkeys(signal.file for signal in header.signals):
        signals = [signal for signal in header.signals if signal.file == file]
        frame = sum(signal.in_frame for signal in signals)
        kinds = {signal.kind for signal in signals}
        offset, skew = signals[0].offset, max(signal.skew for signal in signals)
        size = inside(path.parent, file).stat().st_size
        if min(s.in_frame for s in signals) < 1 or len(kinds) != 1 or offset > size:
            raise DataError(f"the header says what cannot be of file {file!r}", todo=_MEND)
        kind = kinds.pop()
        if kind not in _BYTES and kind not in _COMPRESSED:
            raise DataError(f"format {kind} is unknown", todo=_MEND)
        if kind in _COMPRESSED:
            if not length or length * frame > MOST_SAMPLES:
                raise DataError(f"{length} samples cannot be in file {file!r}", todo=_MEND)
            continue
        room = int((size - offset) / _BYTES[kind]) // frame
        length = length or room
        if not length or skew > length or length > room:
            raise DataError(
                f"file {file!r} ends after {room} of {length} samples (truncated?)", todo=_MEND
            )
    return length


def _segments(path: Path, header: _Header) -> tuple[list[str], list[str], list[list[str]]]:
    """Files, names of channels, and units in each segment, of a record of many segments.

    The first segment may have no samples, and says then which channels the others may have.
    """
    if len(header.segments) > _MOST_SEGMENTS:
        raise DataError("the header has too many segments", todo=_MEND)
    if header.length != sum(length for _, length in header.segments) or not header.length:
        raise DataError("segments are not as long as the whole", todo=_MEND)
    files: list[str] = []
    layout: dict[str, str] = {}
    units: list[list[str]] = []
    variable = header.segments[0][1] == 0
    for number, (name, length) in enumerate(header.segments):
        if name == "~":
            continue
        file = inside(path.parent, f"{name}.hea")
        segment = _header(file)
        if segment.segments:
            raise DataError(f"segment {name!r} is made of segments itself", todo=_MEND)
        files.append(file.name)
        mine = {signal.name: signal.unit for signal in segment.signals}
        if not (variable and number == 0):
            if _checked_files(file, segment) != length or segment.rate != header.rate:
                raise DataError(f"segment {name!r} has another length or rate", todo=_MEND)
            files += [signal.file for signal in segment.signals]
        layout = layout or mine
        if list(mine) != list(layout) and not (variable and mine.keys() <= layout.keys()):
            raise DataError(f"segment {name!r} has other channels", todo=_MEND)
        units.append([mine.get(channel, unit) for channel, unit in layout.items()])
    if len(layout) != header.channels:
        raise DataError("segments do not have the channels of the whole", todo=_MEND)
    return files, list(layout), units


def _annotations(
    wfdb: Any,  # noqa: ANN401
    folder: Path,
    name: str,
    extension: str,
    rate: float,
) -> tuple[NDArray[np.float64], list[str]]:
    """Seconds and symbols, in the order of time."""
    path = inside(folder, f"{name}.{extension}")
    size = path.stat().st_size
    if size > _LARGEST_ANNOTATIONS:
        raise DataError("the annotations' file is too large", todo=_MEND)
    with path.open("rb") as file:
        file.seek(max(size - len(_END), 0))
        last = file.read()
    if last != _END:
        raise DataError("the annotations have no end mark (truncated?)", todo=_MEND)
    found = _quietly(lambda: wfdb.rdann(str(folder / name), extension))
    own = rate if found.fs is None else float(found.fs)
    if not 0 < own < 1e9:
        raise DataError("the annotations have no possible rate", todo=_MEND)
    return np.asarray(found.sample, dtype=np.float64) / own, [str(each) for each in found.symbol]
