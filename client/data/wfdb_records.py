"""WFDB records, PhysioNet's format: a text header, files of samples, files of annotations.

The `wfdb` package reads them. It would also fetch records from the network, follow names in a
header to any file, and allocate what a header asks for; so each header is checked here first:
names are plain and in the record's folder, and the files are as long as it says. What a header says
in comments (age, sex, diagnoses) is read by nobody.

A signal with several samples a frame is averaged in each frame, as `wfdb.rdrecord` does.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
    header = _header(wfdb, path)
    rate = float(header.fs)
    if hasattr(header, "seg_name"):
        files, names, units = _segments(wfdb, path, header)
    else:
        header.sig_len = _checked_files(path, header)
        files, names, units = list(header.file_name), header.sig_name, [header.units]
    channels = find_channels([str(each) for each in names], source, data)
    length = int(header.sig_len)
    if length * len(channels) > MOST_SAMPLES:
        raise DataError(f"{length} samples of {len(channels)} channels are too many", todo=_MEND)
    factors = [
        {unit_factor(str(of[channel] or ""), place, data) for of in units}
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


def _header(wfdb: Any, path: Path) -> Any:  # noqa: ANN401
    """A header as wfdb reads it, of which every name is plain and every number possible."""
    lines = _lines(path)
    for number, line in enumerate(lines[1:]):
        if line.split()[0] != "~" and not _PLAIN.fullmatch(line.split()[0]):
            raise DataError(
                f"line {number + 2} of the header names no file in the record's folder", todo=_MEND
            )
    header = _quietly(lambda: wfdb.rdheader(str(path.with_suffix(""))))
    named = getattr(header, "seg_name", None) or getattr(header, "file_name", None) or []
    if list(named) != [line.split()[0] for line in lines[1:]]:
        raise DataError("is no WFDB header", todo=_MEND)
    if not _said(lines[0], header):
        raise DataError("the header's first line is not understood", todo=_MEND)
    many = header.n_seg if hasattr(header, "seg_name") else header.n_sig
    if many != len(named) or not named:
        raise DataError(f"the header says {many}, and describes {len(named)}", todo=_MEND)
    if not (isinstance(header.fs, int | float) and 0 < header.fs < 1e9):
        raise DataError("the header says no possible rate", todo=_MEND)
    return header


def _said(line: str, header: Any) -> bool:  # noqa: ANN401
    """Whether the first line's numbers are those that were read: the library takes what it can."""
    _, *words = line.split()
    numbers = (header.n_sig, header.fs, header.sig_len)
    try:
        given = [float(re.split(r"[/(]", word)[0]) for word in words[: len(numbers)]]
    except ValueError:
        return False
    return given == list(numbers[: len(given)])


def _checked_files(path: Path, header: Any) -> int:  # noqa: ANN401
    """The frames of a record of one segment, for which its files are long enough.

    Raises:
        DataError: A file is not there or is too short, or a number is impossible.
    """
    length = header.sig_len
    for file in dict.fromkeys(header.file_name):
        signals = [n for n in range(header.n_sig) if header.file_name[n] == file]
        frames = [header.samps_per_frame[n] or 1 for n in signals]
        formats = {header.fmt[n] for n in signals}
        offset = header.byte_offset[signals[0]] or 0
        skews = [header.skew[n] or 0 for n in signals]
        size = inside(path.parent, file).stat().st_size
        if min(frames) < 1 or len(formats) != 1 or not 0 <= offset <= size or min(skews) < 0:
            raise DataError(f"the header says what cannot be of file {file!r}", todo=_MEND)
        kind = formats.pop()
        if kind not in _BYTES and kind not in _COMPRESSED:
            raise DataError(f"format {kind} is unknown", todo=_MEND)
        if kind in _COMPRESSED:
            if not length or length * sum(frames) > MOST_SAMPLES:
                raise DataError(f"{length} samples cannot be in file {file!r}", todo=_MEND)
            continue
        room = int((size - offset) / _BYTES[kind]) // sum(frames)
        length = length or room
        if not length or max(skews) > length or length > room:
            raise DataError(
                f"file {file!r} ends after {room} of {length} samples (truncated?)", todo=_MEND
            )
    return int(length)


def _segments(wfdb: Any, path: Path, header: Any) -> tuple[list[str], list[str], list[list[str]]]:  # noqa: ANN401
    """Files, names of channels, and units in each segment, of a record of many segments."""
    lengths, names = list(header.seg_len), list(header.seg_name)
    if len(names) > _MOST_SEGMENTS or any(length is None or length < 0 for length in lengths):
        raise DataError("the header says what cannot be of its segments", todo=_MEND)
    if header.sig_len != sum(lengths) or not header.sig_len or set(names) == {"~"}:
        raise DataError("segments are not as long as the whole", todo=_MEND)
    files: list[str] = []
    layout: list[str] | None = None
    units: list[list[str]] = []
    for number, (name, length) in enumerate(zip(names, lengths, strict=True)):
        if name == "~":
            continue
        file = inside(path.parent, f"{name}.hea")
        segment = _header(wfdb, file)
        if hasattr(segment, "seg_name"):
            raise DataError(f"segment {name!r} is made of segments itself", todo=_MEND)
        described = number == 0 and length == 0  # says which channels there are, and has no samples
        if not described:
            if _checked_files(file, segment) != length or segment.fs != header.fs:
                raise DataError(f"segment {name!r} has another length or rate", todo=_MEND)
            files += segment.file_name
        files.append(file.name)
        if layout is None:
            layout = [str(each) for each in segment.sig_name]
            variable = described
        if variable:
            mine = dict(zip(map(str, segment.sig_name), segment.units, strict=True))
            unknown = dict(zip(layout, units[0] if units else segment.units, strict=True))
            units.append([mine.get(each, unknown[each]) for each in layout])
        elif [str(each) for each in segment.sig_name] != layout:
            raise DataError(f"segment {name!r} has other channels", todo=_MEND)
        else:
            units.append(list(segment.units))
    if layout is None or len(layout) != header.n_sig:
        raise DataError("segments do not have the channels of the whole", todo=_MEND)
    return files, layout, units


def _annotations(
    wfdb: Any,  # noqa: ANN401
    folder: Path,
    name: str,
    extension: str,
    rate: float,
) -> tuple[NDArray[np.float64], list[str]]:
    """Seconds and symbols, in the order of time."""
    path = inside(folder, f"{name}.{extension}")
    if path.stat().st_size > _LARGEST_ANNOTATIONS:
        raise DataError("the annotations' file is too large", todo=_MEND)
    found = _quietly(lambda: wfdb.rdann(str(folder / name), extension))
    own = rate if found.fs is None else float(found.fs)
    if not 0 < own < 1e9:
        raise DataError("the annotations have no possible rate", todo=_MEND)
    return np.asarray(found.sample, dtype=np.float64) / own, [str(each) for each in found.symbol]
