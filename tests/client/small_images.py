"""Small images of any pixels, and what a study says of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GREY = {"kind": "images", "shape": [1, 4, 6]}
COLOUR = {"kind": "images", "shape": [3, 4, 6]}


def pixels(count: int, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)
