"""MIT-BIH as a table: a row a beat, with its shape, its distance to its neighbours and its patient.

The archive `mitbih_beats.npz` holds, for each of 109,449 annotated beats, 256 samples (360 Hz, from
96 before the beat's mark) averaged in pairs, in the recorder's units (200 to a millivolt); the AAMI
class; the record; and the place of the mark in it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

# de Chazal, O'Dwyer and Reilly 2004: no patient is in both, but for the one of 201 and 202. We keep
# the 22 records to train on as they are, and judge without 202.
TRAIN = (
    101, 106, 108, 109, 112, 114, 115, 116, 118, 119, 122, 124, 201, 203, 205, 207, 208, 209, 215,
    220, 223, 230,
)  # fmt: skip
TEST = (
    100, 103, 105, 111, 113, 117, 121, 123, 200, 210, 212, 213, 214, 219, 221, 222, 228, 231, 232,
    233, 234,
)  # fmt: skip
SAMPLES, POINTS, RATE = 128, 16, 360.0
UNKNOWN = 4  # the class of beats that nobody could name; left out
HOSPITALS = 4
MOST_PERCENT = 300  # a longer gap is a stretch that nobody annotated

# Public constants: a millivolt, a tenth of the patient's own mean distance, a tenth of a second.
FEATURES: dict[str, dict[str, float]] = {
    **{f"point_{number:02d}": {"scale": 200} for number in range(POINTS)},
    "percent_before": {"center": 100, "scale": 10},
    "percent_after": {"center": 100, "scale": 10},
    "mean_distance_ms": {"center": 800, "scale": 100},
}


def read_beats(archive: Path) -> pd.DataFrame:
    """All beats with a class: the features, `patient` and `ectopic` (S, V and F against N).

    A beat's own median is taken off its shape; the mean distance is over the patient's record.
    """
    with np.load(archive, allow_pickle=False) as stored:
        shapes, classes = stored["x"].astype(float), stored["y"]
        records, marks = stored["record"].astype(int), stored["sample"].astype(float)
    points = shapes.reshape(-1, POINTS, SAMPLES // POINTS).mean(axis=2)
    points -= np.median(shapes, axis=1, keepdims=True)
    before, after, mean = _distances(records, marks)
    percent = [np.clip(100 * d / mean, 0, MOST_PERCENT)[:, None] for d in (before, after)]
    values = [points, *percent, mean[:, None]]
    table: dict[str, Any] = dict(
        zip(FEATURES, np.rint(np.hstack(values)).astype(int).T, strict=True)
    )
    table |= {"patient": records, "ectopic": (classes > 0).astype(int)}
    known = classes != UNKNOWN
    return pd.DataFrame({name: column[known] for name, column in table.items()})


def _distances(
    records: NDArray[np.int64], marks: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Milliseconds to the beat before and after, and their mean in the record."""
    apart = np.diff(marks) * 1000 / RATE
    same = records[1:] == records[:-1]
    _, place = np.unique(records, return_inverse=True)
    mean = np.bincount(place[1:][same], apart[same])[place] / np.bincount(place[1:][same])[place]
    before, after = mean.copy(), mean.copy()  # the first and the last have one neighbour only
    before[1:][same], after[:-1][same] = apart[same], apart[same]
    return before, after, mean


def write_table(beats: pd.DataFrame, file: Path, *, most: int | None = None) -> None:
    """The table of a study: whole patients dealt out to hospitals, DS1 to train on, DS2 to judge.

    Args:
        beats: From `read_beats`.
        file: Where to.
        most: Beats of each patient, at most.
    """
    dealt = {
        patient: (part, chr(ord("A") + place % HOSPITALS))
        for part, patients in (("train", TRAIN), ("test", TEST))
        for place, patient in enumerate(patients)
    }
    chosen = beats[beats["patient"].isin(dealt)]
    if most is not None:
        chosen = chosen.groupby("patient").head(most)
    parts, hospitals = zip(*(dealt[patient] for patient in chosen["patient"]), strict=True)
    chosen.assign(part=parts, hospital=hospitals).to_csv(file, index=False)
