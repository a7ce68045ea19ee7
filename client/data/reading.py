"""From a hospital file to the records of a study."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedward.client.data.images import read_images
from fedward.client.data.parts import divide
from fedward.client.data.records import Parts, RawRecords
from fedward.client.data.tables import read_table
from fedward.client.hospital import (
    BundledSource,
    CsvSource,
    HospitalFile,
    Source,
)
from fedward.study.errors import DataError
from fedward.study.study import Study


def read_parts(hospital: HospitalFile, study: Study, folder: Path) -> Parts:
    """A hospital's training, validation and test records.

    Args:
        hospital: The hospital's file.
        study: The study that says which records it needs.
        folder: Folder of the hospital's file, which its paths are relative to.

    Raises:
        DataError: Data is missing, unreadable or outside what the study allows.
    """
    raw = read_all(hospital.data, study, folder)
    return divide(raw, study.data.parts, where=f"hospital {hospital.name}")


def read_all(source: Source, study: Study, folder: Path) -> RawRecords:
    """All records of a source, before they are divided into parts."""
    if source.rows is None:
        return _read(source, study, folder)
    rows = _rows(folder / source.rows)
    whole = source.model_copy(update={"rows": None, **_whole_path(source, folder)})
    shared = _Shared(study.digest(), whole.model_dump_json())
    if shared not in _SHARED:
        _SHARED.clear()
        _SHARED[shared] = _read(whole, study, folder)
    raw = _SHARED[shared]
    return raw.chosen(np.isin(raw.rows, rows))


class _Shared(NamedTuple):
    """A file of which several pretended hospitals have some rows each: it is read once."""

    study: str
    source: str


_SHARED: dict[_Shared, RawRecords] = {}


def _whole_path(source: Source, folder: Path) -> dict[str, str]:
    return (
        {} if isinstance(source, BundledSource) else {"path": str((folder / source.path).resolve())}
    )


def _read(source: Source, study: Study, folder: Path) -> RawRecords:
    if isinstance(source, CsvSource | BundledSource):
        return read_table(source, study, folder)
    return read_images(source, study, folder)


def _rows(path: Path) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"row numbers cannot be read ({error})", todo="write the split anew", where=str(path)
        ) from None
    return rows.astype(np.int64)  # type: ignore[no-any-return]
