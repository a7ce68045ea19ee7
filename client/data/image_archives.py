"""Images in NumPy archives."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.faults import Faults
from fedward.client.data.images import (
    Pixels,
    as_the_study_says,
    images_of,
    mask_as_the_study_says,
    to_unit,
)
from fedward.client.data.records import RawRecords, as_text, numbered, without_faulty
from fedward.client.data.sources import NpzSource
from fedward.client.data.targets import Targets, targets
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.task import ReconstructionTask, SegmentationTask

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_MOST_DEFLATED = 1100  # times smaller than what it holds: more than zlib can do
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Entry = NDArray[np.generic]


def read_archive(source: NpzSource, study: Study, context: Context) -> RawRecords:
    """The images that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of images that cannot be used.

    Raises:
        DataError: An entry, an image or a label is not as the study needs it.
    """
    path = context.folder / source.path
    where, faults = str(path), context.faults
    data = images_of(study.data, where)
    masked = isinstance(study.task, SegmentationTask)
    answers = "masks" if masked else "labels"
    with _opened(path) as archive:
        prefixes = {
            part: f"{prefix}_" for part, prefix in _PARTS.items() if f"{prefix}_images" in archive
        } or {"": ""}
        every = list(prefixes.values())
        images = [_entry(archive, f"{p}images", path) for p in every]
        labels = (
            []
            if isinstance(study.task, ReconstructionTask)
            else [_entry(archive, f"{p}{answers}", path) for p in every]
        )
        keys = {key.removeprefix(every[0]) for key in archive if key.startswith(every[0])}
        owner = source.patient_column(keys)
        patients = (
            None
            if owner is None
            else [_entry(archive, f"{p}{owner}", path).reshape(-1) for p in every]
        )
    if not masked:
        labels = [_in_columns(entry, study, where) for entry in labels]
    for what, entries in ((answers, labels or images), ("patients", patients or images)):
        if list(map(len, entries)) != list(map(len, images)):
            raise DataError(
                f"{sum(map(len, images))} images but {sum(map(len, entries))} {what}",
                todo="give one for each image",
                where=where,
            )
    count = sum(map(len, images))
    names = as_text(np.arange(count) if patients is None else np.concatenate(patients))
    found = RawRecords(
        inputs=_inputs(
            [_channels_first(piece, data, where) for piece in images], data, path, faults
        ),
        labels=_masks(images, labels, data, study.task, path, faults)
        if isinstance(study.task, SegmentationTask)
        else _labels(labels, study, where, count, faults),
        patients=numbered(names),
        names=names,
        rows=np.arange(count),
        parts=None
        if "" in prefixes
        else np.repeat(list(prefixes), [len(piece) for piece in images]),
    )
    return without_faulty(found, faults)


def _opened(path: Path) -> NpzFile:
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


def _entry(archive: NpzFile, key: str, path: Path) -> Entry:
    if key not in archive:
        raise DataError(
            f"has no entry {key!r}", todo=f"found: {', '.join(archive.files)}", where=str(path)
        )
    try:
        _refuse_bomb(archive, key, path)
        entry: Entry = archive[key]
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"entry {key!r} cannot be read ({error})", todo="mend the file", where=str(path)
        ) from None
    except (NotImplementedError, RuntimeError) as error:  # packed or locked in another way
        raise DataError(
            f"entry {key!r} cannot be read ({type(error).__name__})",
            todo="write it with numpy.savez_compressed",
            where=str(path),
        ) from None
    if entry.ndim == 0:
        raise DataError(f"entry {key!r} is no array", todo="mend the file", where=str(path))
    return entry


def _refuse_bomb(archive: NpzFile, key: str, path: Path) -> None:
    """NumPy makes room for what a head claims before it reads: so the head is looked at first."""
    packed = archive.zip
    if packed is None:
        return
    inside = packed.getinfo(key if key in packed.namelist() else f"{key}.npy")
    room = psutil.virtual_memory().total // 2
    if inside.file_size > min(room, inside.compress_size * _MOST_DEFLATED + 1024):
        raise DataError(
            f"entry {key!r} claims {inside.file_size} bytes in {inside.compress_size}: more than "
            "can be, or than this machine has room for",
            todo="mend the file, or divide it",
            where=str(path),
        )
    with packed.open(inside) as file:
        read_header = _HEADERS.get(npy.read_magic(file))
        if read_header is None:
            raise ValueError("an unknown version of NumPy's format")
        shape, _, dtype = read_header(file)
    if int(np.prod([float(n) for n in shape])) * dtype.itemsize > inside.file_size:
        raise DataError(
            f"entry {key!r} claims {shape} of {dtype}, more than it holds",
            todo="mend the file",
            where=str(path),
        )


def _channels_first(images: Entry, data: ImageData, where: str) -> Entry:
    """Images as (n, channels, *size), from archives that leave channels out or last."""
    channels, *wanted = data.shape
    if images.dtype.kind not in "uif":
        raise DataError(
            f"images of type {images.dtype}", todo="give whole or real numbers", where=where
        )
    shape = images.shape[1:]
    if channels == 1 and _fits(shape, wanted, data):
        return images[:, None]
    if shape and shape[-1] == channels and _fits(shape[:-1], wanted, data):
        return np.moveaxis(images, -1, 1)
    if shape and shape[0] == channels and _fits(shape[1:], wanted, data):
        return images
    raise DataError(
        f"images of shape {shape}",
        todo=f"the study needs (channels, height, width) = {data.shape}"
        if len(wanted) == 2
        else f"the study needs (channels, depth, height, width) = {data.shape}",
        where=where,
    )


def _fits(size: tuple[int, ...], wanted: Sequence[int], data: ImageData) -> bool:
    if data.resize == "fit":
        return len(size) == len(wanted) and all(size)
    return size == (*wanted,)


def _inputs(pieces: Sequence[Entry], data: ImageData, path: Path, faults: Faults) -> Pixels:
    count = sum(map(len, pieces))
    inputs = np.zeros((count, *data.shape), dtype=np.float32)
    row = 0
    for piece in pieces:
        for image in piece:
            try:
                where = f"{path}: record {row + 1}"
                inputs[row] = as_the_study_says(to_unit(image, data), data, where)
            except DataError as error:
                faults.add(error, row)
            row += 1
    return inputs


def _in_columns(entry: Entry, study: Study, where: str) -> Entry:
    """Labels as (n, columns)."""
    columns = study.task.label_columns
    if columns > 1 and (entry.ndim != 2 or entry.shape[1] != columns):
        raise DataError(
            f"labels of shape {entry.shape}",
            todo=f"give {columns} columns, {', '.join(study.data.label_columns)}",
            where=where,
        )
    return entry.reshape(-1, columns)


def _labels(
    entries: Sequence[Entry], study: Study, where: str, count: int, faults: Faults
) -> Targets:
    columns = list(np.concatenate(entries).T) if entries else []
    return targets(
        [list(column) for column in columns],
        study.data,
        study.task,
        where=where,
        rows=range(count),
        faults=faults,
    )


def _masks(
    images: Sequence[Entry],
    masks: Sequence[Entry],
    data: ImageData,
    task: SegmentationTask,
    path: Path,
    faults: Faults,
) -> NDArray[np.int64]:
    found = np.zeros((sum(map(len, images)), *data.shape[1:]), dtype=np.int64)
    row = 0
    for some, their in zip(images, masks, strict=True):
        of = _channels_first(some, data, str(path)).shape[2:]
        for mask in their:
            try:
                where = f"{path}: mask {row + 1}"
                found[row] = mask_as_the_study_says(mask, of, data, task, where)
            except DataError as error:
                faults.add(error, row)
            row += 1
    return found
