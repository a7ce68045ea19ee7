"""Images in NumPy archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.archives import Entry, opened
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
    with opened(path) as archive:
        prefixes = {
            part: f"{prefix}_"
            for part, prefix in _PARTS.items()
            if f"{prefix}_images" in archive.keys
        } or {"": ""}
        every = list(prefixes.values())
        images = [archive.entry(f"{p}images") for p in every]
        labels = (
            []
            if isinstance(study.task, ReconstructionTask)
            else [archive.entry(f"{p}{answers}") for p in every]
        )
        keys = {key.removeprefix(every[0]) for key in archive.keys if key.startswith(every[0])}
        owner = source.patient_column(keys)
        patients = (
            None if owner is None else [archive.entry(f"{p}{owner}").reshape(-1) for p in every]
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
