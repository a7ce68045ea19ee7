"""What is worth knowing of a hospital's images before a study trains on them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fedward.client.data.records import RawRecords
from fedward.study.image_data import ImageData


def image_facts(
    say: Callable[[str, str], object],
    raw: RawRecords,
    data: ImageData,
    assigned: NDArray[np.str_],
) -> None:
    """Tell the range of the pixels, and of the same image in two parts or of two patients.

    Args:
        say: Told a word, and the rest of a line.
        raw: All records, at least one.
        data: The study's.
        assigned: The part of each record.
    """
    low, high, same = np.inf, -np.inf, defaultdict[bytes, list[int]](list)
    for row in range(len(raw)):  # one at a time: there may be more than memory holds
        image = np.ascontiguousarray(raw.inputs[row])
        low, high = min(low, float(image.min())), max(high, float(image.max()))
        same[hashlib.sha256(image.tobytes()).digest()].append(row)
    low, high = low * data.scale + data.center, high * data.scale + data.center
    odd = "" if low >= -0.01 and 0.5 < high <= 1.01 else "; the study expects 0 to 1"
    say("look at" if odd else "pixels", f"pixels from {low:.3g} to {high:.3g}{odd}")
    groups = [rows for rows in same.values() if len(rows) > 1]
    for what, of in (("in two parts", assigned), ("of two patients", raw.patients)):
        if torn := [rows for rows in groups if len(set(of[rows].tolist())) > 1]:
            first, second = (int(raw.rows[row]) + 1 for row in torn[0][:2])
            say(
                "look at",
                f"the same image {what}: {len(torn)} times, first in records {first} and {second}",
            )
