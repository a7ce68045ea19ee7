"""The sums that a run's final figures were computed from, kept beside them.

A figure forgets what it was made of: curves, tables and calibration need the counts and histograms.
They are sums over all hospitals, which is how they left them. In the file each model has one vector
for each part that judged it, called `federated.test`, `pooled.test` or `local.<hospital>.test`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from fedward.models.tasks.any_task import Sums
from fedward.study.errors import DataError

JUDGED = "judged.safetensors"
"""Name of the file in a run's folder."""


def packed(sums: Mapping[str, Sums], digest: str) -> bytes:
    """The file's content: the same for the same sums, to the byte.

    Args:
        sums: Of each model and part, by `model.part`; float64, shape (task.size,).
        digest: Of the study.
    """
    arrays = {name: np.ascontiguousarray(sums[name], np.float64) for name in sorted(sums)}
    return save(arrays, metadata={"fedward": json.dumps({"digest": digest})})


def read_judged(path: Path, digest: str, size: int) -> dict[str, Sums]:
    """Read what `packed` made.

    Args:
        path: The file.
        digest: Of the study that the sums must be of.
        size: Length of the task's sums.

    Raises:
        DataError: It cannot be read, is another study's, or holds no such sums.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("fedward", ""))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            shapes = {name: (s.get_shape(), s.get_dtype()) for name, s in slices.items()}
            fits = all(found == ([size], "F64") for found in shapes.values())
            sums: dict[str, Sums] = {name: file.get_tensor(name) for name in shapes} if fits else {}
    except (SafetensorError, OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read as sums ({type(error).__name__})") from None
    if not isinstance(about, dict) or about.get("digest") != digest:
        raise _wrong(path, "is another study's")
    if not fits or not all(bool(np.isfinite(found).all()) for found in sums.values()):
        raise _wrong(path, f"does not hold sums of {size} numbers")
    return sums


def _wrong(path: Path, what: str) -> DataError:
    return DataError(
        what, todo="put back the file of this run, or delete it to go without", where=str(path)
    )
