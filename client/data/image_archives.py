"""Images in NumPy archives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.archive_rows import Entry, EntryRows
from fedward.client.data.archives import filled_from, opened
from fedward.client.data.cache import Layout
from fedward.client.data.context import Context
from fedward.client.data.decoded import Fault, Fill, file_key
from fedward.client.data.faults import Faults
from fedward.client.data.images import (
    Pixels,
    as_the_study_says,
    how,
    images_of,
    mask_as_the_study_says,
    mask_key,
    to_unit,
)
from fedward.client.data.labels import Mask, mask_type
from fedward.client.data.records import RawRecords, as_text, numbered, without_faulty
from fedward.client.data.sources import NpzSource
from fedward.client.data.stored import Stored
from fedward.client.data.targets import Targets, targets
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.task import SegmentationTask

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
    with opened(path) as archive:
        prefixes = {
            part: f"{prefix}_"
            for part, prefix in _PARTS.items()
            if f"{prefix}_images" in archive.keys
        } or {"": ""}
        every = list(prefixes.values())
        images = [archive.rows(f"{p}images") for p in every]
        masks_of = [archive.rows(f"{p}masks") for p in every] if masked else []
        labels = (
            []
            if masked or not study.task.label_columns
            else [archive.entry(f"{p}labels") for p in every]
        )
        keys = {key.removeprefix(every[0]) for key in archive.keys if key.startswith(every[0])}
        owner = source.patient_column(keys)
        patients = (
            None if owner is None else [archive.entry(f"{p}{owner}").reshape(-1) for p in every]
        )
    labels = [_in_columns(entry, study, where) for entry in labels]
    counts = [entry.shape[0] for entry in images]
    for what, entries in (
        ("masks", masks_of),
        ("labels", labels),
        ("patients", patients or []),
    ):
        theirs = [entry.shape[0] for entry in entries]
        if theirs and theirs != counts:
            raise DataError(
                f"{sum(counts)} images but {sum(theirs)} {what}",
                todo="give one for each image",
                where=where,
            )
    count = sum(counts)
    names = as_text(np.arange(count) if patients is None else np.concatenate(patients))
    found = RawRecords(
        inputs=_inputs(images, data, path, context),
        labels=_masks(images, masks_of, data, study.task, path, context)
        if isinstance(study.task, SegmentationTask)
        else _labels(labels, study, where, count, faults),
        patients=numbered(names),
        names=names,
        rows=np.arange(count),
        parts=None if "" in prefixes else np.repeat(list(prefixes), counts),
    )
    return without_faulty(found, faults)


def _channels_first(images: EntryRows, data: ImageData, where: str) -> Callable[[Entry], Entry]:
    """What makes an image (channels, *size), of archives that leave channels out or last."""
    channels, *wanted = data.shape
    if images.dtype.kind not in "uif":
        raise DataError(
            f"images of type {images.dtype}", todo="give whole or real numbers", where=where
        )
    shape = images.shape[1:]
    if channels == 1 and _fits(shape, wanted, data):
        return lambda image: image[None]
    if shape and shape[-1] == channels and _fits(shape[:-1], wanted, data):
        return lambda image: np.moveaxis(image, -1, 0)
    if shape and shape[0] == channels and _fits(shape[1:], wanted, data):
        return lambda image: image
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


def _inputs(
    pieces: Sequence[EntryRows], data: ImageData, path: Path, context: Context
) -> Pixels | Stored:
    """All images; kept decoded, like files', only where they are too many for memory."""
    turned = [_channels_first(piece, data, str(path)) for piece in pieces]

    def one(of: int, at: int, row: int) -> Pixels:
        image = turned[of](pieces[of].take(at, at + 1)[0])
        return as_the_study_says(to_unit(image, data), data, f"{path}: record {row + 1}")

    key = file_key(path, context.folder, [piece.shape for piece in pieces], how(data))
    count = sum(piece.shape[0] for piece in pieces)
    layout = Layout(count, data.shape, np.dtype(np.float32))
    return filled_from(pieces, key, _one_by_one(pieces, one), layout, context)


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
    images: Sequence[EntryRows],
    masks: Sequence[EntryRows],
    data: ImageData,
    task: SegmentationTask,
    path: Path,
    context: Context,
) -> Mask | Stored:
    """All masks; kept, like the images, only where they are too many for memory."""
    sizes = []
    for some in images:
        size = np.broadcast_to(np.uint8(0), some.shape[1:])  # an image, but for its pixels
        sizes.append(_channels_first(some, data, str(path))(size).shape[1:])

    def one(of: int, at: int, row: int) -> Mask:
        mask = masks[of].take(at, at + 1)[0]
        return mask_as_the_study_says(mask, sizes[of], data, task, f"{path}: mask {row + 1}")

    shapes = str([piece.shape for piece in (*images, *masks)])
    key = mask_key(shapes, file_key(path, context.folder), data, task)
    layout = Layout(sum(piece.shape[0] for piece in masks), data.shape[1:], mask_type(task))
    return filled_from(masks, key, _one_by_one(masks, one), layout, context)


def _one_by_one(pieces: Sequence[EntryRows], one: Callable[[int, int, int], NDArray[Any]]) -> Fill:
    """Fills in records, each of a place in one of several entries: entry, place, and record."""
    ends = np.cumsum([piece.shape[0] for piece in pieces])

    def fill(first: int, rows: NDArray[Any]) -> list[Fault]:
        faults = []
        for place, row in enumerate(range(first, first + len(rows))):
            of = int(np.searchsorted(ends, row, side="right"))
            try:
                rows[place] = one(of, row - int(ends[of]) + pieces[of].shape[0], row)
            except DataError as error:
                faults.append((row, error))
                rows[place] = 0
        return faults

    return fill
