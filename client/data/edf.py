"""EDF and BDF files, also EDF+ and BDF+ with annotations (https://www.edfplus.info/specs/).

`pyedflib` reads the samples; its C code is given no file whose header does not agree with the
file's size. The patient's and the recording's fields of a header are read by nobody.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
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
    Recording,
    Whose,
    find_channels,
    signal_records,
    unit_factor,
    wants_signals,
)
from fedward.client.data.sources import EdfSource
from fedward.study.errors import DataError
from fedward.study.signal_data import Around, SignalData
from fedward.study.study import Study

T = TypeVar("T")

_SUFFIXES = {".edf", ".bdf"}
_FIXED, _EACH = 256, 256  # bytes of a header: the recording's, and each signal's
_MOST_SIGNALS = 4096
_MEND = "replace the file, or take it out"


class _Signal(NamedTuple):
    label: str
    unit: str
    samples: int  # in a data record
    ends: tuple[bytes, ...]  # least and greatest value, physical, then digital


class _Header(NamedTuple):
    kind: str  # EDF or BDF
    plus: bool
    records: int
    seconds: float  # of a data record
    signals: list[_Signal]  # without annotations


def read_edf(source: EdfSource, study: Study, context: Context) -> RawRecords:
    """The pieces of recordings that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of records that cannot be used.

    Raises:
        DataError: A file, a record or a label is not as the study needs it; the message names it.
        OptionError: The package pyedflib is not installed.
    """
    folder = (context.folder / source.path).absolute()
    data = wants_signals(study, str(folder))
    library = need("pyedflib", extra="signals")
    listed = list_recordings(folder, source, study, lambda: _files_of(folder))
    return signal_records(
        listed,
        lambda one: _opened(library, folder, one, source, data),
        source,
        study,
        context,
        str(folder),
    )


def _files_of(folder: Path) -> list[str]:
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES)
    return [file.relative_to(folder).as_posix() for file in files]


def _opened(
    library: Any,  # noqa: ANN401
    folder: Path,
    one: Whose,
    source: EdfSource,
    data: SignalData,
) -> Recording:
    path = inside(folder, one.name)
    header = _header(path)
    places = find_channels([signal.label for signal in header.signals], source, data)
    chosen = [header.signals[place] for place in places]
    for signal in chosen:
        _refuse_range(signal)
    factors = [unit_factor(signal.unit, place, data) for place, signal in enumerate(chosen)]
    lengths = tuple(signal.samples * header.records for signal in chosen)
    marks: NDArray[np.float64] | None = None
    symbols: list[str] = []
    if isinstance(data.cut, Around) and header.plus:
        marks, symbols = _reading(library, path, header, annotations=True, read=_annotations)
    return Recording(
        name=one.name,
        key=key_of(path, one.name),
        rates=tuple(signal.samples / header.seconds for signal in chosen),
        lengths=lengths,
        read=partial(
            _reading,
            library,
            path,
            header,
            annotations=False,
            read=lambda reader: _samples(reader, places, factors),
        ),
        marks=marks,
        symbols=symbols,
    )


def _samples(reader: Any, places: list[int], factors: list[float]) -> list[NDArray[np.float64]]:  # noqa: ANN401
    tracks: list[NDArray[np.float64]] = [reader.readSignal(place) for place in places]
    return [
        track if factor == 1.0 else track * factor
        for track, factor in zip(tracks, factors, strict=True)
    ]


def _annotations(reader: Any) -> tuple[NDArray[np.float64], list[str]]:  # noqa: ANN401
    """Seconds and texts, in the order of time."""
    seconds, _, texts = reader.readAnnotations()
    order = np.argsort(seconds, kind="stable")
    return np.asarray(seconds, dtype=np.float64)[order], [str(texts[place]) for place in order]


def _reading(
    library: Any,  # noqa: ANN401
    path: Path,
    header: _Header,
    *,
    annotations: bool,
    read: Callable[[Any], T],
) -> T:
    """What is read of a file that is as long as its header says."""
    mode = library.READ_ALL_ANNOTATIONS if annotations else library.DO_NOT_READ_ANNOTATIONS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with library.EdfReader(str(path), mode, library.CHECK_FILE_SIZE) as reader:
                if reader.signals_in_file != len(header.signals):
                    raise DataError("its signals cannot be told from annotations", todo=_MEND)
                return read(reader)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # whatever its parsing meets
        raise DataError(
            f"cannot be read as an EDF file ({type(error).__name__})", todo=_MEND
        ) from None


# --- Headers --------------------------------------------------------------------------------------


def _header(path: Path) -> _Header:
    """A header that agrees with the size of its file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        fixed = file.read(_FIXED)
        if len(fixed) < _FIXED:
            raise DataError("is no EDF file: too short for a header", todo=_MEND)
        kind = {b"0       ": "EDF", b"\xffBIOSEMI": "BDF"}.get(fixed[:8])
        if kind is None:
            raise DataError("is no EDF or BDF file", todo=_MEND)
        many = _whole(fixed[252:256], "signals", 1, _MOST_SIGNALS)
        each = file.read(many * _EACH)
    if len(each) != many * _EACH or _whole(fixed[184:192], "header bytes", 0, size) != (
        _FIXED + many * _EACH
    ):
        raise DataError("ends within its header (truncated?)", todo=_MEND)
    extended = fixed[192:197].decode("latin-1")
    if extended == f"{kind}+D":
        raise DataError("is interrupted (EDF+D), which is not read", todo="give EDF+C files")
    records = _whole(fixed[236:244], "data records", 1, size)
    seconds = _number(fixed[244:252], "seconds of a data record")
    if not 0 < seconds < 1e6:
        raise DataError(f"a data record of {seconds:g} seconds cannot be", todo=_MEND)
    labels, units = _texts(each, many, 0, 16), _texts(each, many, 96, 8)
    counts = [
        _whole(_field(each, many, number, 216, 8), "samples in a data record", 1, size)
        for number in range(many)
    ]
    data = records * sum(counts) * (2 if kind == "EDF" else 3)
    if _FIXED + many * _EACH + data != size:
        raise DataError(
            f"has {size} bytes, its header says {_FIXED + many * _EACH + data} (truncated?)",
            todo=_MEND,
        )
    plus = extended.startswith(f"{kind}+")
    signals = [
        _Signal(label, unit, count, _ends(each, many, number))
        for number, (label, unit, count) in enumerate(zip(labels, units, counts, strict=True))
        if not (plus and label == f"{kind} Annotations")
    ]
    return _Header(kind, plus, records, seconds, signals)


def _field(each: bytes, many: int, number: int, before: int, width: int) -> bytes:
    """One signal's field; fields of one kind stand together, `before` bytes a signal precede."""
    start = before * many + number * width
    return each[start : start + width]


def _ends(each: bytes, many: int, number: int) -> tuple[bytes, ...]:
    return tuple(_field(each, many, number, before, 8) for before in (104, 112, 120, 128))


def _refuse_range(signal: _Signal) -> None:
    """Accept a signal whose samples mean something by returning."""
    ends = [_number(end, f"range of {signal.label!r}") for end in signal.ends]
    if ends[0] == ends[1] or not ends[2] < ends[3]:
        raise DataError(f"its header says an impossible range of {signal.label!r}", todo=_MEND)


def _texts(each: bytes, many: int, before: int, width: int) -> list[str]:
    return [
        _field(each, many, number, before, width).decode("latin-1").strip("\0 ")
        for number in range(many)
    ]


def _number(field: bytes, what: str) -> float:
    try:
        number = float(field.decode("ascii"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"its header does not say the {what}", todo=_MEND)
    return number


def _whole(field: bytes, what: str, least: int, most: int) -> int:
    number = _number(field, what)
    if number != int(number) or not least <= number <= most:
        raise DataError(
            f"its header says {number:g} {what}, which cannot be (cut short, or still written to?)",
            todo=_MEND,
        )
    return int(number)
