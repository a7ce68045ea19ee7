"""Which format a data set is in, by the names of its files and the kind of data that is asked for.

Nothing is guessed between two: a study says `format` in `[simulation] source` then.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from fedward.study.errors import DataError
from fedward.study.study import Study

_FILES = {
    ".csv": "csv",
    ".csv.gz": "csv",
    ".tsv": "csv",
    ".tsv.gz": "csv",
    ".data": "csv",
    ".parquet": "parquet",
    ".arff": "arff",
    ".jsonl": "jsonl",
    ".jsonl.gz": "jsonl",
    ".fasta": "fasta",
    ".fasta.gz": "fasta",
    ".fa": "fasta",
    ".fa.gz": "fasta",
    ".npz": "npz",
    ".json": "fhir",
    ".json.gz": "fhir",
    ".ndjson": "fhir",
    ".ndjson.gz": "fhir",
    ".sqlite": "omop",
    ".sqlite3": "omop",
    ".db": "omop",
}
_IMAGES = {
    ".png": "folder",
    ".jpg": "folder",
    ".jpeg": "folder",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
    ".nii": "nifti",
    ".nii.gz": "nifti",
}
_SIGNALS = {".hea": "wfdb", ".edf": "edf", ".bdf": "edf"}
_ROWS = {
    ".parquet": "parquet",
    ".json": "fhir",
    ".json.gz": "fhir",
    ".ndjson": "fhir",
    ".ndjson.gz": "fhir",
}
_LOOKED_AT = 10_000  # files of a folder
_FIRST = 20  # of them whose first bytes are looked at


def format_of(data: Path, study: Study) -> str:
    """The format of a file or a folder.

    Raises:
        DataError: There is no such file, or its name does not say the format.
    """
    if data.is_dir():
        return _of_folder(data, study.data.kind)
    if not data.exists():
        raise DataError("no such file or folder", todo="check the path", where=str(data))
    found = _of_file(data, _FILES)
    if found is None:
        raise DataError(
            f"files of type {data.suffix or 'unknown'!r} are not read",
            todo=f"give a folder of images or one of {', '.join(_FILES)}",
            where=str(data),
        )
    return "signal-npz" if found == "npz" and study.data.kind == "signals" else found


def is_data(file: Path) -> bool:
    """Whether a file's name says that it may be a data set."""
    return _of_file(file, _FILES) is not None


def _of_file(file: Path, known: dict[str, str]) -> str | None:
    name = file.name.lower()
    return next((form for suffix, form in known.items() if name.endswith(suffix)), None)


def _of_folder(folder: Path, kind: str) -> str:
    known = {"images": _IMAGES, "signals": _SIGNALS}.get(kind, _ROWS)
    files = list(islice((file for file in folder.rglob("*") if file.is_file()), _LOOKED_AT))
    found = {form for file in files if (form := _of_file(file, known)) is not None}
    if not found and kind == "images":
        found = {"dicom" if any(map(_is_dicom, files[:_FIRST])) else "folder"}
    if not found and kind == "signals" and any(file.suffix.lower() == ".csv" for file in files):
        found = {"signal-csv"}
    if len(found) == 1:
        return found.pop()
    raise DataError(
        f"holds files of several formats: {', '.join(sorted(found))}"
        if found
        else f"holds no files that are read as {kind}",
        todo='say the format in the study: [simulation] source = { format = "..." }',
        where=str(folder),
    )


def _is_dicom(file: Path) -> bool:
    """DICOM files often have no suffix."""
    with file.open("rb") as opened:
        return opened.read(132)[128:] == b"DICM"
