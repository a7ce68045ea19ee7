"""Records a second: our DICOM reader beside plain pydicom, on the same files.

    python benchmarks/data_dicom.py ../shared/data/dicom_pydicom/CT_small.dcm --copies 200

Both decode every file to float32 after the modality LUT; ours also sorts, checks and scales.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom
from pydicom.pixels.processing import apply_modality_lut

from fedward.client.data.context import Context
from fedward.client.data.dicom import read_dicom
from fedward.client.data.sources import DicomSource
from fedward.study.study import Study, parse_study


def records_a_second(file: Path, *, copies: int = 200, repeats: int = 5) -> dict[str, list[float]]:
    """Of both readers, each repeat; they take turns.

    Args:
        file: A DICOM image, of which there are copies.
        copies: How many.
        repeats: How often each reads all of them.
    """
    rows, columns = (
        pydicom.dcmread(file, stop_before_pixels=True)[k].value for k in ("Rows", "Columns")
    )
    study = _study((1, int(rows), int(columns)))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for number in range(copies):
            shutil.copy(file, folder / f"{number:05}.dcm")
        found: dict[str, list[float]] = {"ours": [], "pydicom": []}
        for _ in range(repeats):
            start = time.perf_counter()
            plain = _plain(folder)
            middle = time.perf_counter()
            ours = read_dicom(DicomSource(format="dicom", path="."), study, Context(folder)).inputs
            end = time.perf_counter()
            assert ours.shape == (copies, 1, *plain.shape[1:])
            found["pydicom"].append(copies / (middle - start))
            found["ours"].append(copies / (end - middle))
    return found


def _plain(folder: Path) -> np.ndarray:
    images = []
    for path in sorted(folder.iterdir()):
        dataset = pydicom.dcmread(path)
        images.append(apply_modality_lut(dataset.pixel_array, dataset).astype(np.float32))
    return np.stack(images)


def _study(shape: tuple[int, ...]) -> Study:
    return parse_study(
        {
            "study": {"name": "dicom"},
            "task": {"kind": "reconstruction"},
            "model": {"name": "small_cnn"},
            "data": {"kind": "images", "shape": list(shape), "label": []},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("file", type=Path)
    options.add_argument("--copies", type=int, default=200)
    given = options.parse_args()
    speeds = records_a_second(given.file, copies=given.copies)
    ours, plain = (statistics.median(speeds[who]) for who in ("ours", "pydicom"))
    print(f"ours {ours:.0f}, pydicom {plain:.0f} records a second: {ours / plain:.2f}")
