"""From a hospital file to the records of a study."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.context import Context, Progress, unseen
from fedward.client.data.faults import STRICT, Faults, ListedFaults
from fedward.client.data.named_parts import with_named_parts
from fedward.client.data.parts import divide
from fedward.client.data.records import (
    Parts,
    RawRecords,
    as_text,
    numbered,
    refuse_nameless,
    with_same_patients,
)
from fedward.client.data.repeats import without_repeated
from fedward.client.data.sources import (
    CsvSource,
    FastaSource,
    InstalledSource,
    Source,
    TabularSource,
)
from fedward.client.data.subgroups import refuse_unknown
from fedward.client.hospital import HospitalFile, models_of
from fedward.study.errors import DataError, OptionError
from fedward.study.study import Study
from fedward.study.token_data import SequenceData, TextData


def context_of(
    hospital: HospitalFile, folder: Path, faults: Faults = STRICT, progress: Progress = unseen
) -> Context:
    """What a hospital's readers are given.

    Args:
        hospital: The hospital's file.
        folder: Folder of that file.
        faults: Told of records that cannot be used.
        progress: Told of the first decoding.
    """
    cache = hospital.cache
    where = folder / (cache.folder or Path(hospital.state) / "cache")
    models = models_of(hospital, folder)
    return Context(folder, faults, where, progress, int(cache.gib * 2**30), models)


def read_parts(
    hospital: HospitalFile, study: Study, folder: Path, progress: Progress = unseen
) -> Parts:
    """A hospital's training, validation and test records.

    Args:
        hospital: The hospital's file.
        study: The study that says which records it needs.
        folder: Folder of the hospital's file, which its paths are relative to.
        progress: Told of the first decoding.

    Raises:
        DataError: Data is missing, unreadable or outside what the study allows.
    """
    raw = read_with(hospital.data, study, context_of(hospital, folder, progress=progress))
    return divide(raw, study.data.parts, where=f"hospital {hospital.name}")


def read_all(source: Source, study: Study, folder: Path, faults: Faults = STRICT) -> RawRecords:
    """The same as `read_with`, and nothing is kept of what is decoded."""
    return read_with(source, study, Context(folder, faults))


def read_with(source: Source, study: Study, context: Context) -> RawRecords:
    """All records of a source, before they are divided into parts.

    Args:
        source: Where the records are.
        study: Which it needs.
        context: Where its files are, and who is told of records that cannot be used; they are left
            out if it goes on.
    """
    folder, faults = context.folder, context.faults
    if source.rows is None:
        return _read(source, study, context)
    if isinstance(faults, ListedFaults):
        raw = _read(source, study, context)
        rows = _rows(folder / source.rows, records=len(raw) + raw.dropped)
        faults.keep(set(rows.tolist()))
        return raw.chosen(np.isin(raw.rows, rows))
    whole = source.model_copy(update={"rows": None, **_whole_path(source, folder)})
    shared = _Shared(study.digest(), whole.model_dump_json(), _changed(whole))
    if shared not in _SHARED:
        _SHARED.clear()
        _SHARED[shared] = _read(whole, study, context)
    raw = _SHARED[shared]
    rows = _rows(folder / source.rows, records=len(raw) + raw.dropped)
    return raw.chosen(np.isin(raw.rows, rows))


class _Shared(NamedTuple):
    """A file of which several pretended hospitals have some rows each: it is read once."""

    study: str
    source: str
    changed: int


_SHARED: dict[_Shared, RawRecords] = {}


def forget_shared() -> None:
    """Read files anew from now on."""
    _SHARED.clear()


def _whole_path(source: Source, folder: Path) -> dict[str, Any]:
    """The same files, wherever the hospital's file is."""
    found: dict[str, Any] = {}
    if (path := getattr(source, "path", None)) is not None:
        found["path"] = str((folder / path).resolve())
    if isinstance(source, FastaSource) and source.labels is not None:
        found["labels"] = str((folder / source.labels).resolve())
    if isinstance(source, TabularSource):
        found["join"] = tuple(
            join.model_copy(update={"path": str((folder / join.path).resolve())})
            for join in source.join
        )
    return found


def _read(source: Source, study: Study, context: Context) -> RawRecords:
    if isinstance(source, InstalledSource):
        raw = _as_promised(_installed(source)(source, study, context), source, study)
    else:
        raw = _own(source)(source, study, context)
    raw = refuse_unknown(raw, study, source.format)
    if source.named_by is not None:
        raw = refuse_nameless(raw, context.faults)
    raw = with_same_patients(raw, source.same_patient, context.faults)
    raw = with_named_parts(raw, source.parts, context.faults)
    return without_repeated(raw) if study.data.duplicates == "drop" else raw


Reader = Callable[[Any, Study, Context], RawRecords]
"""From a source, a study and a context to all records; raises `DataError`."""

_READERS = {
    "arff": "arff:read_arff",
    "bundled": "tables:read_table",
    "csv": "tables:read_table",
    "dicom": "dicom:read_dicom",
    "edf": "edf:read_edf",
    "fasta": "fasta:read_fasta",
    "fhir": "fhir:read_fhir",
    "folder": "image_folders:read_folder",
    "jsonl": "json_lines:read_lines",
    "nifti": "nifti:read_nifti",
    "npz": "image_archives:read_archive",
    "omop": "omop:read_omop",
    "parquet": "parquet:read_parquet",
    "signal-csv": "signal_arrays:read_signal_tables",
    "signal-npz": "signal_arrays:read_signal_archive",
    "wfdb": "wfdb_records:read_wfdb",
}


def _own(source: Source) -> Reader:
    """The reader of a format, whose libraries are loaded only where they are needed."""
    module, name = _READERS[source.format].split(":")
    reader: Reader = getattr(importlib.import_module(f"fedward.client.data.{module}"), name)
    return reader


def _installed(source: InstalledSource) -> Reader:
    found = {point.name: point for point in entry_points(group="fedward.readers")}
    if source.reader not in found:
        raise OptionError(
            f"no installed package has a reader {source.reader!r}",
            todo=f"install it; there are: {', '.join(sorted(found)) or 'none'}",
        )
    reader: Reader = found[source.reader].load()
    return reader


def _as_promised(raw: RawRecords, source: InstalledSource, study: Study) -> RawRecords:
    """What an installed reader gave; a patient is who has one name, whatever numbers it gave.

    Raises:
        DataError: It is not what a reader has to give.
    """
    kind = np.int64 if isinstance(study.data, TextData | SequenceData) else np.float32
    count, shape = len(raw.labels), study.data.input_shape
    each = (raw.names, raw.rows, *(() if raw.parts is None else (raw.parts,)))
    good = raw.inputs.shape == (count, *shape) and raw.inputs.dtype == kind
    if not good or any(values.shape != (count,) for values in each):
        raise DataError(
            f"reader {source.reader!r} gave inputs of {raw.inputs.dtype} and shape "
            f"{raw.inputs.shape}, with {count} labels, {len(raw.names)} names and {len(raw.rows)} "
            "rows",
            todo=f"mend the reader: the study needs {np.dtype(kind)}, (records, "
            f"{', '.join(map(str, shape))})",
        )
    return replace(raw, patients=numbered(as_text(raw.names)))


def _changed(source: Source) -> int:
    """When the data was last changed, in nanoseconds; 0 for what cannot change."""
    paths = [getattr(source, "path", None)]
    if isinstance(source, TabularSource):
        paths += [join.path for join in source.joined]
    if isinstance(source, CsvSource) and source.files is not None:
        paths += [str(Path(source.path) / file) for file in source.files.values()]
    files = [Path(path) for path in paths if path is not None]
    return max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)


def _rows(path: Path, *, records: int) -> NDArray[np.int64]:
    """Row numbers, each in [0, records)."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"row numbers cannot be read ({error})", todo="write the split anew", where=str(path)
        ) from None
    good = isinstance(rows, np.ndarray) and rows.dtype.kind in "iu" and rows.ndim == 1
    if not good or (len(rows) and not (rows.min() >= 0 and rows.max() < records)):
        raise DataError(
            f"are not row numbers below {records}", todo="write the split anew", where=str(path)
        )
    numbers: NDArray[np.int64] = rows.astype(np.int64)
    return numbers
