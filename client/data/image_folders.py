"""Folders of PNG or JPEG files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fedward.client.data.context import Context
from fedward.client.data.decoded import Keys, decoded
from fedward.client.data.faults import Unreadable
from fedward.client.data.image_bits import with_their_bits
from fedward.client.data.images import (
    Pixels,
    allowing,
    as_the_study_says,
    how,
    images_of,
    mask_as_the_study_says,
    mask_key,
    masks,
    refuse_size,
    to_unit,
)
from fedward.client.data.labelled import LabelTable, read_labels
from fedward.client.data.labels import Mask
from fedward.client.data.named_files import NamedFile, files_of
from fedward.client.data.records import RawRecords, numbered, without_faulty
from fedward.client.data.sources import FolderSource
from fedward.client.data.stored import Stored
from fedward.client.data.subgroups import cells_in_table
from fedward.client.data.targets import targets
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.study import Study
from fedward.study.task import SegmentationTask

_SUFFIXES = {".png", ".jpg", ".jpeg"}
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


class _Listed(NamedTuple):
    """A file of a folder with what is known of it."""

    file: NamedFile
    labels: tuple[str, ...]
    patient: str
    part: str | None


def read_folder(source: FolderSource, study: Study, context: Context) -> RawRecords:
    """The images that a study asks for.

    Args:
        source: Where they are.
        study: Which it needs.
        context: The hospital's folder, and who is told of images that cannot be used.

    Raises:
        DataError: A file, an image or a label is not as the study needs it; the message names it.
    """
    path = context.folder / source.path
    data, task = images_of(study.data, str(path)), study.task
    context = allowing(data, context)
    faults = context.faults
    table = read_labels(path / source.labels) if source.labels else None
    with _listing(path):
        if table is not None:
            listed = _listed_in_table(path, source, study, table)
        elif isinstance(task, SegmentationTask):
            listed = _listed_with_masks(path)
        else:
            listed = _listed_by_class(path, study)
    if not listed:
        raise DataError(
            "holds no PNG or JPEG files", todo="one sub-folder a class", where=str(path)
        )
    parts = [image.part for image in listed]
    names = np.array([image.patient for image in listed], dtype=str)
    found = RawRecords(
        inputs=_inputs(path, [image.file for image in listed], data, context),
        labels=_masks(path, listed, table, data, task, context)
        if isinstance(task, SegmentationTask)
        else targets(
            list(zip(*[image.labels for image in listed], strict=True)),
            data,
            task,
            where=str(path),
            rows=range(len(listed)),
            faults=faults,
        ),
        patients=numbered(names),
        names=names,
        rows=np.arange(len(listed)),
        parts=np.array(parts, dtype=str) if all(parts) else None,
        cells=cells_in_table(study, source, table, where=str(path)),
    )
    return without_faulty(found, faults)


def _inputs(
    path: Path, files: Sequence[NamedFile], data: ImageData, context: Context
) -> Pixels | Stored:
    as_they_are = data.window is None and data.resize == "refuse"
    changes = "" if as_they_are else how(data)
    keys = Keys(len(files), lambda row: files[row].key(path, PIL.__version__, changes))

    def whole(row: int) -> NDArray[Any]:
        return _whole(files[row], data)

    if as_they_are:
        return with_their_bits(keys, whole, data, context, where=str(path))
    return decoded(
        keys,
        lambda row: as_the_study_says(to_unit(whole(row), data), data, str(files[row].path)),
        data.shape,
        np.float32,
        context,
    )


@contextmanager
def _listing(path: Path) -> Iterator[None]:
    """Whatever the system refuses is told of by the folder's name.

    Raises:
        DataError: A folder cannot be looked into.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot be looked into ({error.strerror})",
            todo="let the user that runs Fedward read it",
            where=str(error.filename or path),
        ) from None


def _listed_by_class(path: Path, study: Study) -> list[_Listed]:
    if not path.is_dir():
        raise DataError("no such folder", todo="check the path", where=str(path))
    if study.task.label_columns > 1:
        raise DataError(
            "a folder a class says one label a record, but the study has "
            f"{study.task.label_columns}",
            todo="give a table: labels in hospital.toml",
            where=str(path),
        )
    named = sorted(
        (folder, name)
        for folder in os.listdir(path)
        if (path / folder).is_dir()
        for name in os.listdir(path / folder)
        if os.path.splitext(name)[1].lower() in _SUFFIXES
    )
    return [
        _Listed(NamedFile.found(path / folder / name), (folder,), f"{folder}/{name}", None)
        for folder, name in named
    ]


def _listed_with_masks(path: Path) -> list[_Listed]:
    """`images/a.jpg` and `masks/a.png`: the same name, whatever the suffix."""
    if not (path / "images").is_dir() or not (path / "masks").is_dir():
        raise DataError(
            "no folders images and masks in it",
            todo="make them, or give a table: labels in hospital.toml",
            where=str(path),
        )
    known: dict[str, str] = {}
    for file in sorted((path / "masks").iterdir()):
        if file.suffix.lower() in _SUFFIXES:
            known[file.stem] = file.relative_to(path).as_posix()
    files = sorted(f for f in (path / "images").iterdir() if f.suffix.lower() in _SUFFIXES)
    return [
        _Listed(
            NamedFile.found(file),
            (known.get(file.stem, f"masks/{file.stem}.png"),),
            file.relative_to(path).as_posix(),
            None,
        )
        for file in files
    ]


def _listed_in_table(
    path: Path, source: FolderSource, study: Study, table: LabelTable
) -> list[_Listed]:
    wanted = [source.column(name) for name in study.data.label_columns]
    file = source.column("file")
    files = files_of(path, table.column(file) if table.rows else [], table)
    columns = [table.column(name) for name in wanted[: study.task.label_columns] if table.rows]
    owner = source.patient_column(table.columns) or file
    patients = table.column(owner) if table.rows else []
    part = source.column("part")
    parts = table.column(part) if part in table.columns else [""] * len(files)
    return [
        _Listed(found, tuple(column[row] for column in columns), patients[row], said or None)
        for row, (found, said) in enumerate(zip(files, parts, strict=True))
    ]


def _whole(file: NamedFile, data: ImageData) -> NDArray[Any]:
    """One image's pixels as its file has them, channels first."""
    channels = data.shape[0]
    mode = _MODES.get(channels)
    if mode is None:
        raise DataError(
            f"PNG and JPEG files have 1, 3 or 4 channels, not {channels}",
            todo="change [data] shape in the study",
            where=str(file.path),
        )
    pixels = _opened(file, data, mode)
    return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)


def _masks(
    folder: Path,
    listed: Sequence[_Listed],
    table: LabelTable | None,
    data: ImageData,
    task: SegmentationTask,
    context: Context,
) -> Mask | Stored:
    names = [one.labels[0] for one in listed]
    files = (
        [NamedFile.found(folder / name) for name in names]
        if table is None
        else files_of(folder, names, table)
    )

    def key(row: int) -> str:
        image = listed[row].file.key(folder, PIL.__version__)
        return mask_key(image, files[row].key(folder), data, task)

    def read(row: int) -> Mask:
        file, image = files[row], listed[row].file
        with _faults_of(image.path), image.opened() as content, Image.open(content) as i:
            of = (i.size[1], i.size[0])
        mask = _opened(file, data, None)
        return mask_as_the_study_says(mask, of, data, task, str(file.path))

    return masks(read, Keys(len(files), key), data, task, context)


def _opened(file: NamedFile, data: ImageData, mode: str | None) -> NDArray[np.generic]:
    """Pixels as (height, width) or (height, width, channels); raw ones where there is no mode."""
    where = str(file.path)
    with _faults_of(file.path), file.opened() as content, Image.open(content) as image:
        refuse_size((image.size[1], image.size[0]), data, where)
        deep = image.mode.startswith("I;16")  # convert() would cut sixteen bits to eight
        if mode is not None and not (deep and mode == "L"):
            return np.asarray(image if image.mode == mode else image.convert(mode))
        if image.mode not in {"1", "L", "P", "I"} and not deep:
            raise DataError(
                f"a mask of mode {image.mode}",
                todo="give one whole number a pixel",
                where=where,
            )
        pixels = np.asarray(image)
        return pixels.astype(np.uint8) if pixels.dtype == np.bool_ else pixels


@contextmanager
def _faults_of(file: Path) -> Iterator[None]:
    """Whatever Pillow raises on an image is a fault of that file."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            "no such image", todo="check the table of labels", where=str(file)
        ) from None
    except (
        UnidentifiedImageError,
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
    ) as error:
        raise Unreadable(
            f"cannot be read as an image ({type(error).__name__})",
            todo="replace the file or take it out",
            where=str(file),
        ) from None
