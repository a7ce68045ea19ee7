"""Images kept decoded with the bits that their files have: a quarter or half of float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.client.data.decoded import decoded
from fedward.client.data.images import Pixels, scaled, to_unit
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData

Whole = NDArray[np.uint8] | NDArray[np.uint16]

_CACHED = 2**18  # bytes


class _DeepError(Exception):
    """An image has sixteen bits."""


def with_their_bits(
    keys: Sequence[str],
    decode: Callable[[int], Whole],
    data: ImageData,
    context: Context,
    *,
    where: str,
) -> Pixels | Stored:
    """All images as the study has them; some number in the place of those that cannot be read.

    Args:
        keys: What each image's bytes are.
        decode: Gives one as its file has it, of the study's shape, eight or sixteen bits a pixel.
        data: The study's, with no window of its own.
        context: Where images are kept, and who is told of faults.
        where: The folder, for errors.

    Raises:
        DataError: An image cannot be used, or no pixel would be finite.
    """
    with np.errstate(all="ignore"):
        if not np.isfinite(scaled(np.array([0, 1], np.float32), data)).all():
            raise DataError(
                "pixels would not be finite (NaN or infinity)",
                todo="change [data] center or scale in the study",
                where=where,
            )

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
        scaled(to_unit(whole[start : start + step], data, found[start : start + step]), data)
    return found
