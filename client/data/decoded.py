"""Records that are decoded one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.context import Context
from fedward.study.errors import DataError


def decoded(
    keys: Sequence[str],
    decode: Callable[[int], NDArray[Any]],
    shape: tuple[int, ...],
    dtype: type,
    context: Context,
) -> NDArray[Any]:
    """All records, zeros in the place of those that cannot be read.

    Args:
        keys: What each record's content follows from: file, size, time, and how it is decoded.
        decode: One record by its number; raises `DataError` where it cannot be used.
        shape: Of a record.
        dtype: Of a record's numbers.
        context: Who is told of faults and of progress.
    """
    found: NDArray[Any] = np.zeros((len(keys), *shape), dtype=dtype)
    for row in range(len(keys)):
        try:
            found[row] = decode(row)
        except DataError as error:
            context.faults.add(error, row)
        context.progress(row + 1, len(keys))
    return found
