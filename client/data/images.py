"""Images: NumPy archives, and folders of PNG or JPEG files."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL
import torch
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fedward.client.data.context import Context
from fedward.client.data.decoded import decoded, file_key
from fedward.client.data.faults import Faults
from fedward.client.data.records import RawRecords, as_text, numbered, without_faulty
from fedward.client.data.sources import FolderSource, NpzSource
from fedward.client.data.stored import Stored
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.study import Study

_ARCHIVE_PARTS = {"train": "train", "validation": "val", "test": "test"}
_SUFFIXES = {".png", ".jpg", ".jpeg"}

_CACHED = 2**18  # bytes

Pixels = NDArray[np.float32]
Whole = NDArray[np.uint8] | NDArray[np.uint16]


class _DeepError(Exception):
    """An image has sixteen bits."""


def read_images(source: NpzSource | FolderSource, study: Study, context: Context) -> RawRecords:
    """The images that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of images that cannot be used.

    Raises:
        DataError: A file, an image or a label is not as the study needs it; the message names it.
    """
    path = context.folder / source.path
    data, faults = study.data, context.faults
    if not isinstance(data, ImageData):
        raise DataError(
            f"holds images, but the study asks for a {data.kind}",
            todo="point [data] in hospital.toml to the right files",
            where=str(path),
        )
    if isinstance(source, NpzSource):
        found = _read_archive(path, source, data, study, faults)
    else:
        found = _read_folder(path, source, data, study, context)
    return without_faulty(found, faults)


def _read_archive(
    path: Path, source: NpzSource, data: ImageData, study: Study, faults: Faults
) -> RawRecords:
    archive = _open_archive(path)
    with archive:
        prefixes = {
            part: f"{prefix}_"
            for part, prefix in _ARCHIVE_PARTS.items()
            if f"{prefix}_images" in archive
        } or {"": ""}
        images = [_entry(archive, f"{p}images", path) for p in prefixes.values()]
        labels = [_entry(archive, f"{p}labels", path).reshape(-1) for p in prefixes.values()]
        named_by = source.named_by
        patients = (
            None
            if named_by is None
            else [_entry(archive, f"{p}{named_by}", path).reshape(-1) for p in prefixes.values()]
        )
    for what, entries in (("labels", labels), ("patients", patients or images)):
        if list(map(len, entries)) != list(map(len, images)):
            raise DataError(
                f"{sum(map(len, images))} images but {sum(map(len, entries))} {what}",
                todo="give one for each image",
                where=str(path),
            )
    count = sum(map(len, images))
    where = str(path)
    names = as_text(np.arange(count) if patients is None else np.concatenate(patients))
    return RawRecords(
        inputs=_scaled(
            np.concatenate([_unit(_channels_first(p, data, where)) for p in images]),
            data,
            where,
            faults,
        ),
        labels=targets(
            [list(np.concatenate(labels))],
            data,
            study.task,
            where=where,
            rows=range(count),
            faults=faults,
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(count),
        parts=None
        if "" in prefixes
        else np.repeat(list(prefixes), [len(piece) for piece in images]),
    )


def _open_archive(path: Path) -> NpzFile:
    if not path.is_file():
        raise DataError("no such file", todo="check the path", where=str(path))
    todo = "give an .npz file with images and labels"
    if not zipfile.is_zipfile(path):
        raise DataError("is no NumPy archive, or was cut short", todo=todo, where=str(path))
    try:
        archive: NpzFile = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(
            f"cannot be read as a NumPy archive ({error})", todo=todo, where=str(path)
        ) from None
    return archive


def _entry(archive: NpzFile, key: str, path: Path) -> NDArray[np.generic]:
    try:
        entry: NDArray[np.generic] = archive[key]
    except KeyError:
        raise DataError(
            f"has no entry {key!r}", todo=f"found: {', '.join(archive.files)}", where=str(path)
        ) from None
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"entry {key!r} cannot be read ({error})", todo="mend the file", where=str(path)
        ) from None
    if entry.ndim == 0:
        raise DataError(f"entry {key!r} is no array", todo="mend the file", where=str(path))
    return entry


def _channels_first(
    images: NDArray[np.generic], data: ImageData, where: str
) -> NDArray[np.generic]:
    """Images as (n, channels, height, width), from archives that leave channels out or last."""
    channels, *size = data.shape
    if images.dtype.kind not in "uif":
        raise DataError(
            f"images of type {images.dtype}", todo="give whole or real numbers", where=where
        )
    if images.shape[1:] == (*size,) and channels == 1:
        return images[:, None]
    if images.shape[1:] == (*size, channels):
        return np.moveaxis(images, -1, 1)
    if images.shape[1:] == data.shape:
        return images
    raise DataError(
        f"images of shape {images.shape[1:]}",
        todo=f"the study needs (channels, height, width) = {data.shape}",
        where=where,
    )


def _unit(pixels: NDArray[np.generic]) -> Pixels:
    """Full range of an integer type becomes 0 to 1; floating-point pixels are taken as they are."""
    full = np.iinfo(pixels.dtype.str).max if pixels.dtype.kind in "ui" else 1
    unit: Pixels = pixels.astype(np.float32)
    unit /= np.float32(full)
    return unit


def _fitted(unit: Pixels, data: ImageData) -> Pixels:
    """As the study says, in place."""
    unit -= np.float32(data.center)
    unit /= np.float32(data.scale)
    return unit


def _scaled(unit: Pixels, data: ImageData, where: str, faults: Faults) -> Pixels:
    """The same, and what is not finite is told of."""
    _fitted(unit, data)
    finite = np.isfinite(unit).reshape(len(unit), -1).all(axis=1)
    for row in np.flatnonzero(~finite):
        what = f"record {row + 1}: a pixel is not finite (NaN or infinity)"
        faults.add(DataError(what, todo="mend it", where=where), int(row))
    return unit


class _Listed(NamedTuple):
    """A file of a folder with what is known of it."""

    file: Path
    label: str
    patient: str
    part: str | None


def _read_folder(
    path: Path, source: FolderSource, data: ImageData, study: Study, context: Context
) -> RawRecords:
    listed = _listed_in_table(path, source) if source.labels else _listed_by_class(path)
    if not listed:
        raise DataError(
            "holds no PNG or JPEG files", todo="one sub-folder a class", where=str(path)
        )
    parts = [image.part for image in listed]
    where = str(path)
    labels = [image.label for image in listed]
    names = np.array([image.patient for image in listed], dtype=str)
    return RawRecords(
        inputs=_decoded(path, listed, data, context),
        labels=targets(
            [labels], data, study.task, where=where, rows=range(len(labels)), faults=context.faults
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(len(listed)),
        parts=np.array(parts, dtype=str) if all(parts) else None,
    )


def _decoded(
    path: Path, listed: list[_Listed], data: ImageData, context: Context
) -> Pixels | Stored:
    """All images as the study has them; some number in the place of those that cannot be read.

    They are kept as the files have them, with eight bits if all of them do: that is a quarter.
    """
    with np.errstate(all="ignore"):
        if not np.isfinite(_fitted(np.array([0, 1], np.float32), data)).all():
            raise DataError(
                "pixels would not be finite (NaN or infinity)",
                todo="change [data] center or scale in the study",
                where=str(path),
            )
    keys = [file_key(image.file, path, PIL.__version__) for image in listed]

    def decode(row: int) -> Whole:
        file = listed[row].file
        if file_key(file, path, PIL.__version__) != keys[row]:
            raise DataError(
                "was changed while it was read", todo="read the data again", where=str(file)
            )
        return _pixels(file, data)

    def shallow(row: int) -> Whole:
        found = decode(row)
        if found.dtype != np.uint8:
            raise _DeepError
        return found

    def deep(row: int) -> Whole:
        found = decode(row)
        return found.astype(np.uint16) * np.uint16(257) if found.dtype == np.uint8 else found

    try:
        found = decoded(keys, shallow, data.shape, np.uint8, context)
    except _DeepError:
        found = decoded(keys, deep, data.shape, np.uint16, context)
    if isinstance(found, Stored):
        return found.mapped(
            lambda rows: torch.from_numpy(_as_studied(rows.numpy(), data)), np.dtype(np.float32)
        )
    return _as_studied(found, data)


def _as_studied(whole: Whole, data: ImageData) -> Pixels:
    """Whole numbers as the study has them, in pieces that stay in the processor's cache."""
    found = np.empty(whole.shape, np.float32)
    step = max(_CACHED // max(found[:1].nbytes, 1), 1)
    for start in range(0, len(whole), step):
        found[start : start + step] = _fitted(_unit(whole[start : start + step]), data)
    return found


def _listed_by_class(path: Path) -> list[_Listed]:
    if not path.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(path))
    files = sorted(f for f in path.glob("*/*") if f.suffix.lower() in _SUFFIXES)
    return [
        _Listed(file, file.parent.name, file.relative_to(path).as_posix(), None) for file in files
    ]


def _listed_in_table(path: Path, source: FolderSource) -> list[_Listed]:
    table = path / str(source.labels)
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except FileNotFoundError:
        raise DataError("no such file", todo="check the path", where=str(table)) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as a table ({error})", todo="give a CSV file", where=str(table)
        ) from None
    column = source.named_by or "file"
    wanted = {"file", "label", column}
    if rows and (absent := sorted(wanted - set(rows[0]))):
        raise DataError(
            f"has no column {absent[0]!r}",
            todo=f"columns found: {', '.join(rows[0])}",
            where=str(table),
        )
    if short := [number for number, row in enumerate(rows) if None in row.values()]:
        raise DataError(
            f"row {short[0] + 1} has too few columns", todo="mend the table", where=str(table)
        )
    return [
        _Listed(path / row["file"], row["label"], row[column], row.get("part") or None)
        for row in rows
    ]


def _flat(data: ImageData, file: Path) -> tuple[int, int, int]:
    if len(data.shape) != 3:
        raise DataError(
            "is a flat image, but the study asks for volumes",
            todo="point [data] in hospital.toml to NIfTI or DICOM files",
            where=str(file),
        )
    return data.shape


def _pixels(file: Path, data: ImageData) -> Whole:
    """One image's pixels, shape (channels, height, width), with all of its type's range."""
    channels, height, width = _flat(data, file)
    mode = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
    if mode is None:
        raise DataError(
            f"PNG and JPEG files have 1, 3 or 4 channels, not {channels}",
            todo="change [data] shape in the study",
            where=str(file),
        )
    try:
        with Image.open(file) as image:
            if image.size != (width, height):
                raise DataError(
                    f"is {image.size[0]} wide and {image.size[1]} high",
                    todo=f"the study needs {width} wide and {height} high",
                    where=str(file),
                )
            deep = image.mode.startswith("I;16")  # convert() would cut sixteen bits to eight
            pixels = np.asarray(image if deep and channels == 1 else image.convert(mode))
    except FileNotFoundError:
        raise DataError(
            "no such image", todo="check the table of labels", where=str(file)
        ) from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise DataError(
            f"cannot be read as an image ({type(error).__name__})",
            todo="replace the file or take it out",
            where=str(file),
        ) from None
    whole: Whole = pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)
    return whole
