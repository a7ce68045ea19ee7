"""A clinic's own files, without labels, as the study's model sees them.

The hospital's readers read them, so that a patient who comes later is seen as those were whom the
model was trained on: the same windows, units, filters, tokens and constants.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from fedward.client.data.reading import read_all
from fedward.client.data.sources import Source
from fedward.client.scaling import centered
from fedward.study.data import Data
from fedward.study.errors import DataError
from fedward.study.scaling import Scaling
from fedward.study.series_data import SeriesData
from fedward.study.signal_data import SignalData
from fedward.study.study import Study
from fedward.study.table_data import TableData
from fedward.study.task import ReconstructionTask
from fedward.study.token_data import SequenceData, TextData

_PICTURES = {".png", ".jpg", ".jpeg"}
_DICOM_AT, _DICOM = 128, b"DICM"  # PS3.10, section 7.1
_LONGEST = 200  # bytes of a name; systems take 255, and ours may get an ending
_TABLES = {".csv": "csv", ".parquet": "parquet", ".jsonl": "jsonl", ".arff": "arff"}


class Unlabelled(NamedTuple):
    """Records that somebody asks about.

    Attributes:
        inputs: As the model sees them, shape (n, *input_shape).
        names: What each is called, n of them: a file's name, or a row's number from 1.
    """

    inputs: Tensor
    names: tuple[str, ...]


def read_unlabelled(
    files: Mapping[str, bytes], study: Study, scaling: Scaling | None = None
) -> Unlabelled:
    """Read files that belong together: one picture, one recording with its header, one table.

    Args:
        files: Contents by file name; folders in a name are ignored.
        study: Says what the model sees.
        scaling: The constants that the run measured, where it measured any.

    Raises:
        DataError: A file cannot be read, or is not of a kind that the study has; it is named. Or
            two files have one name, or a name cannot be one.
        MissingExtra: A package that reads such files is not installed.
    """
    named = _named(files)
    with tempfile.TemporaryDirectory(prefix="fedward-") as made:
        folder = Path(made)
        source = _laid_out(named, study.data, folder)
        try:
            raw = read_all(source, _asking(study), folder)
            inputs = torch.from_numpy(raw.whole)
        except DataError as error:
            raise _without_folder(error, folder) from None
    if scaling is not None:
        inputs = centered(inputs, study.data, scaling)
    several = len(raw) != 1
    (first, *_) = named
    names = tuple(f"{first}, record {row + 1}" if several else first for row in raw.rows.tolist())
    return Unlabelled(inputs, names)


def _named(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files by their names without folders."""
    named: dict[str, bytes] = {}
    for name, content in files.items():
        last = PurePath(name.replace("\\", "/")).name
        if last in {"", ".."} or "\0" in last or len(last.encode(errors="replace")) > _LONGEST:
            raise DataError(
                "a file's name cannot be used", todo="give the file another name", where=last[:40]
            )
        if last in named:
            raise DataError(
                "two files have one name", todo="give each file a name of its own", where=last
            )
        named[last] = content
    if not named:
        raise DataError("no file was given", todo="give at least one, with a name")
    return named


def _asking(study: Study) -> Study:
    """The study as one that learns from no label, and leaves no record out."""
    keys: dict[str, Any] = {
        "label": (),
        "label_from": None,
        "class_values": None,
        "missing": "refuse",
        "unreadable": "refuse",
        "duplicates": "keep",
    }
    data = study.data
    known = {key: value for key, value in keys.items() if key in type(data).model_fields}
    return study.model_copy(
        update={
            "task": ReconstructionTask(kind="reconstruction"),
            "data": data.model_copy(update=known),
            "evaluation": None,
        }
    )


def _laid_out(named: Mapping[str, bytes], data: Data, folder: Path) -> Source:
    """Files where a reader looks for them, and what `hospital.toml` would say of them."""
    found = _source_of(named, data)
    if found is None:
        kinds = ", ".join(_kinds_for(data))
        raise DataError(
            f"no file of a kind that shows {data.kind}",
            todo=f"give {kinds}",
            where=", ".join(named),
        )
    said, files = found
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    try:
        source: Source = TypeAdapter(Source).validate_python({"patient": "record", **said})
    except ValidationError:  # a name that is no path of ours
        raise DataError(
            "its name cannot be used", todo="give the file another name", where=", ".join(named)
        ) from None
    return source


_Said = tuple[dict[str, Any], Mapping[str, bytes]]


def _source_of(named: Mapping[str, bytes], data: Data) -> _Said | None:
    """What a hospital would say of such files, and the files by their place; None if nothing."""
    (first, content), *_ = named.items()
    suffix = PurePath(first).suffix.lower()
    match data:
        case SeriesData():
            return _chart(first, content, suffix)
        case TableData() if any(spec.fhir for spec in data.features.values()):
            return _chart(first, content, suffix)
        case TableData() | TextData() | SequenceData():
            if suffix == ".json":
                return _rows_of_json(first, content)
            if suffix == ".txt" and isinstance(data, TextData | SequenceData):
                return _one_text(first, content, data)
            if suffix in {".fasta", ".fa"} and isinstance(data, SequenceData):
                return {"format": "fasta", "path": first}, {first: content}
            if suffix in _TABLES:
                return {"format": _TABLES[suffix], "path": first}, {first: content}
        case SignalData():
            return _recording(named, data)
        case _:
            return _picture(named, deep=len(data.input_shape) == 4)
    return None


def _rows_of_json(name: str, content: bytes) -> _Said:
    """One row, or a list of them, as lines."""
    try:
        rows = json.loads(content)
    except (ValueError, RecursionError):
        raise DataError("is not JSON", todo="mend the file", where=name) from None
    rows = rows if isinstance(rows, list) else [rows]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            "is no row", todo="give an object of columns, or a list of such", where=name
        )
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    return {"format": "jsonl", "path": f"{name}l"}, {f"{name}l": lines}


def _chart(name: str, content: bytes, suffix: str) -> _Said | None:
    """FHIR: a bundle, or lines of resources."""
    if suffix not in {".json", ".ndjson"}:
        return None
    return {"format": "fhir", "path": name, "patient": "Patient.id"}, {name: content}


def _one_text(name: str, content: bytes, data: TextData | SequenceData) -> _Said:
    try:
        text = content.decode().strip()
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", todo="save it as such", where=name) from None
    column = data.text if isinstance(data, TextData) else data.sequence
    if not isinstance(column, str):
        raise DataError(
            f"is one text, and the study has {len(column)} columns",
            todo="give a CSV file with these columns",
            where=name,
        )
    line = json.dumps({column: text}).encode()
    return {"format": "jsonl", "path": f"{name}.jsonl"}, {f"{name}.jsonl": line}


def _picture(named: Mapping[str, bytes], *, deep: bool) -> _Said | None:
    (first, content), *_ = named.items()
    suffix = PurePath(first).suffix.lower()
    inside = {f"files/{name}": found for name, found in named.items()}
    if content[_DICOM_AT : _DICOM_AT + len(_DICOM)] == _DICOM or suffix == ".dcm":
        return {"format": "dicom", "path": "files"}, inside
    if suffix == ".nii" or first.lower().endswith(".nii.gz"):
        return {"format": "nifti", "path": "files"}, inside
    if suffix == ".npz":
        return {"format": "npz", "path": first}, {first: content}
    if suffix in _PICTURES and not deep:
        return {"format": "folder", "path": "."}, inside
    return None


def _recording(named: Mapping[str, bytes], data: SignalData) -> _Said | None:
    inside = {f"files/{name}": content for name, content in named.items()}
    (first, content), *_ = named.items()
    suffixes = {PurePath(name).suffix.lower() for name in named}
    if ".hea" in suffixes:
        annotated = {"annotations": "atr"} if ".atr" in suffixes else {}
        return {"format": "wfdb", "path": "files", **annotated}, inside
    if suffixes & {".edf", ".bdf"}:
        return {"format": "edf", "path": "files"}, inside
    if ".csv" in suffixes:
        return {"format": "signal-csv", "path": "files", "rate": data.rate}, inside
    if ".npz" in suffixes:
        said = {"format": "signal-npz", "path": first, "channels": data.channels, "rate": data.rate}
        return said, {first: content}
    return None


def _kinds_for(data: Data) -> tuple[str, ...]:
    match data:
        case SeriesData():
            return (".json", ".ndjson")
        case TableData():
            return (*_TABLES, ".json")
        case TextData():
            return (*_TABLES, ".json", ".txt")
        case SequenceData():
            return (*_TABLES, ".json", ".txt", ".fasta")
        case SignalData():
            return (".hea with its .dat", ".edf", ".bdf", ".csv", ".npz")
        case _:
            flat = len(data.input_shape) == 3
            return (".dcm", ".nii", ".npz", *(sorted(_PICTURES) if flat else ()))


def _without_folder(error: DataError, folder: Path) -> DataError:
    """The same error, naming the file as whoever gave it knows it."""

    def ours(text: str) -> str:
        return text.replace(f"{folder}/files/", "").replace(f"{folder}/", "")

    return type(error)(ours(error.what), todo=ours(error.todo), where=ours(error.where))
