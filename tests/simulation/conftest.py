"""Small data sets with known records, and small studies over them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fedward.study.study import Study, parse_study

COUNT = 60
WARDS = ("north", "south", "west")


def study_of(**tables: dict[str, Any]) -> Study:
    """A study of a table with two numbers; tables named here replace or extend these."""
    values: dict[str, dict[str, Any]] = {
        "study": {"name": "tiny"},
        "task": {"kind": "binary", "classes": ["benign", "malignant"]},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {
            "kind": "table",
            "features": {"number": {"scale": 60}, "age": {}, "size": {}},
            "label": "diagnosis",
            "parts": {"by": "random", "train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "training": {"rounds": 2, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.3},
        "participation": {"hospitals": 3},
        "simulation": {"split": "iid"},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    if "privacy" in values and values["data"]["parts"]["by"] == "random":
        values["data"]["parts"]["by"] = "hash"
    return parse_study(values)


def write_table(path: Path, numbers: range, *, seed: int = 1) -> Path:
    """Records numbered as asked: two a patient, wards in turn, a learnable diagnosis."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(["number", "patient", "ward", "age", "size", "diagnosis"])
        for number in numbers:
            patient, sick = number // 2, (number // 2) % 2
            age, size = rng.normal(size=2) + sick
            word = "malignant" if sick else "benign"
            ward = WARDS[patient % len(WARDS)]
            table.writerow([number, f"patient {patient}", ward, age, size, word])
    return path


def write_images(folder: Path, count: int, *, seed: int = 1) -> Path:
    """Small grey PNG files, one sub-folder a class."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        place = folder / ("benign", "malignant")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of sixty records of thirty patients."""
    return write_table(tmp_path / "records.csv", range(COUNT))
