"""What every source of images does with pixels: range, size, scale, and masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fedward.client.data.context import Context
from fedward.client.data.decoded import Keys, decoded
from fedward.client.data.faults import Lenient
from fedward.client.data.labels import Mask, mask_classes, mask_type
from fedward.client.data.stored import Stored
from fedward.study.data import Data
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData
from fedward.study.task import SegmentationTask

Pixels = NDArray[np.float32]
MOST_PIXELS = 2**28
"""Most values of one record before it is made smaller: a GiB as float32."""


def images_of(data: Data, where: str) -> ImageData:
    """The study's data, which must be images.

    Raises:
        DataError: It is something else.
    """
    if isinstance(data, ImageData):
        return data
    raise DataError(
        f"holds images, but the study asks for a {data.kind}",
        todo="point [data] in hospital.toml to the right files",
        where=where,
    )


def allowing(data: ImageData, context: Context) -> Context:
    """The context in which files that cannot be read are left out, if the study allows it."""
    if data.unreadable == "refuse":
        return context
    return replace(context, faults=Lenient(context.faults))


def how(data: ImageData) -> str:
    """All of a study that changes how an image is decoded."""
    return f"{data.shape} {data.center} {data.scale} {data.window} {data.resize}"


def to_unit(pixels: NDArray[np.generic], data: ImageData, into: Pixels | None = None) -> Pixels:
    """The study's window, or else the full range of an integer type, becomes 0 to 1.

    Without a window floating-point pixels are taken as they are.

    Args:
        pixels: Of any shape.
        data: The study's.
        into: Room for as many, which may be what is returned.
    """
    if data.window is not None:
        return windowed(pixels, *data.window)
    full = np.iinfo(pixels.dtype.str).max if pixels.dtype.kind in "ui" else 1
    unit: Pixels = np.empty(pixels.shape, np.float32) if into is None else into
    unit[...] = pixels
    unit /= np.float32(full)
    return unit


def windowed(values: NDArray[np.generic], middle: float, width: float) -> Pixels:
    """Values from middle - width / 2 to middle + width / 2 become 0 to 1; others the nearer end."""
    # Whole numbers of 16 bits lose nothing as float32, as long as the subtraction comes first.
    exact = values.dtype.kind in "ui" and values.dtype.itemsize <= 2
    unit: NDArray[Any] = values.astype(np.float32 if exact else np.float64)
    unit -= middle - width / 2
    unit /= width
    clipped: Pixels = np.clip(unit, 0, 1, out=unit).astype(np.float32, copy=False)
    return clipped


def as_the_study_says(unit: Pixels, data: ImageData, where: str) -> Pixels:
    """One record as the model sees it.

    Args:
        unit: Pixels of any size, shape (channels, *size), from 0 to 1.
        data: The study's.
        where: The file, for the error.

    Raises:
        DataError: Its size is another and may not be changed, or a pixel is not finite.
    """
    refuse_size(unit.shape[1:], data, where)
    if not np.isfinite(unit.sum()) and not np.isfinite(unit).all():  # a sum keeps nothing
        raise DataError("a pixel is not finite (NaN or infinity)", todo="mend it", where=where)
    if unit.shape != data.shape:
        unit = fitted(unit, data.shape[1:])
    return scaled(unit, data)


def scaled(unit: Pixels, data: ImageData) -> Pixels:
    """Pixels from 0 to 1 with the study's center and scale; they are overwritten if they may be."""
    own = unit if unit.flags.writeable else None
    found: Pixels = np.subtract(unit, np.float32(data.center), out=own)
    found /= np.float32(data.scale)
    return found


def refuse_size(size: tuple[int, ...], data: ImageData, where: str) -> None:
    """Raise if an image or volume is of a size that the study does not take.

    Raises:
        DataError: It is.
    """
    wanted = data.shape[1:]
    if len(size) != len(wanted):
        kinds = {2: "a flat image", 3: "a volume"}
        raise DataError(
            f"is {kinds.get(len(size), f'of {len(size)} dimensions')}, but the study asks for "
            f"{kinds[len(wanted)]}s",
            todo="point [data] in hospital.toml to the right files",
            where=where,
        )
    if size != wanted and data.resize == "refuse":
        raise DataError(
            f"is {_words(size)}",
            todo=f'the study needs {_words(wanted)}, or resize = "fit"',
            where=where,
        )
    if not all(size) or math.prod(size) * data.shape[0] > MOST_PIXELS:
        raise DataError(
            f"is {_words(size)}: empty, or too large to be resized",
            todo="take it out, or make it smaller",
            where=where,
        )


def _words(size: tuple[int, ...]) -> str:
    *deep, height, width = size
    layers = f"{deep[0]} deep, " if deep else ""
    return f"{layers}{width} wide and {height} high"


def fitted(unit: Pixels, size: tuple[int, ...], *, nearest: bool = False) -> Pixels:
    """An image or volume scaled as a whole into a size, in the middle, with padding around it.

    The padding is 0, or less where a pixel is less. A volume is scaled in voxels, whatever their
    spacing is. Going down, all pixels under a new one count (Pillow's bilinear filter).

    Args:
        unit: Shape (channels, *any size).
        size: Height and width, or depth, height and width.
        nearest: Take the nearest pixel: for numbers that are names.
    """
    factor = min(new / old for new, old in zip(size, unit.shape[1:], strict=True))
    inner = [
        max(1, min(new, round(old * factor))) for new, old in zip(size, unit.shape[1:], strict=True)
    ]
    out = np.full((len(unit), *size), min(0.0, float(unit.min())), dtype=np.float32)
    around = [(new - old) // 2 for new, old in zip(size, inner, strict=True)]
    place = tuple(slice(at, at + n) for at, n in zip(around, inner, strict=True))
    for channel, pixels in zip(out, unit, strict=True):
        channel[place] = _resized(pixels, inner, nearest=nearest)
    return out


def _resized(pixels: Pixels, size: Sequence[int], *, nearest: bool) -> Pixels:
    method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
    if pixels.ndim == 2:
        image = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32))
        return np.asarray(image.resize((size[1], size[0]), method))
    flat = np.stack([_resized(layer, size[1:], nearest=nearest) for layer in pixels])
    through = np.empty((size[0], *size[1:]), dtype=np.float32)
    for row in range(size[1]):  # the filter is separable: the depth comes after each layer
        through[:, row] = _resized(flat[:, row], (size[0], size[2]), nearest=nearest)
    return through


def mask_as_the_study_says(
    mask: NDArray[np.generic],
    of: tuple[int, ...],
    data: ImageData,
    task: SegmentationTask,
    where: str,
) -> Mask:
    """The class of each pixel, in the study's size.

    Args:
        mask: Raw values, of the size that the image had before it was resized.
        of: That size.
        data: The study's.
        task: The study's.
        where: The mask's file, for the error.

    Raises:
        DataError: Its size is not the image's, or a value is of no class.
    """
    if mask.shape != of:
        raise DataError(
            f"a mask of shape {mask.shape} for an image of shape {of}",
            todo="give a mask of the image's size",
            where=where,
        )
    classes = mask_classes(mask, data, task, where=where)
    if mask.shape == data.shape[1:]:
        return classes
    small = fitted(classes[None].astype(np.float32), data.shape[1:], nearest=True)[0]
    resized: Mask = small.astype(classes.dtype)
    return resized


def masks(
    read: Callable[[int], Mask],
    keys: Sequence[str],
    data: ImageData,
    task: SegmentationTask,
    context: Context,
) -> Mask | Stored:
    """The masks of all records, shape (n, *size); on disk where they are many, as images are.

    Args:
        read: Gives one, or raises `DataError`; called from several threads.
        keys: What each image and its mask hold; see `mask_key`. That a record has no mask is added.
        data: The study's.
        task: The study's.
        context: Where masks are kept, and who is told of what cannot be read; a record with
            another fault has no mask.
    """
    faulty, size = context.faults.rows, data.shape[1:]
    none = np.zeros(size, mask_type(task))
    named = Keys(len(keys), lambda row: f"none {keys[row]}" if row in faulty else keys[row])
    return decoded(
        named, lambda row: none if row in faulty else read(row), size, none.dtype.type, context
    )


def mask_key(image: str, mask: str, data: ImageData, task: SegmentationTask) -> str:
    """What a mask of the study's follows from, beside the keys of both files."""
    return repr(("mask", image, mask, how(data), data.class_values, task.classes))
