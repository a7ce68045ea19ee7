"""Files of every kind, cut, turned over or overwritten: read, or named, in bounded time and memory.

Tables and EDF have a test of their own (`test_hostile_tables.py`, `test_edf.py`); DICOM too.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tomli_w
from PIL import Image

from tests.client.data.test_fhir import bundle, patient, pulse, stroke, study_of
from tests.client.data.test_omop import BOTH, LABEL, database, measured
from tests.client.data.test_wfdb_records import ramp
from tests.client.data.test_wfdb_records import write as write_wfdb

CHILD = """
import json, random, resource, sys
from pathlib import Path
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all
from fedward.client.hospital import read_hospital
from fedward.study.errors import FedwardError
from fedward.study.study import parse_study

folder, count = Path(sys.argv[1]), int(sys.argv[2])
files = [folder / name for name in sys.argv[3:]]
study = parse_study(json.loads((folder / "study.json").read_text()))
source = read_hospital(folder / "hospital.toml").data
assert len(read_all(source, study, folder)) >= 1
whole = {file: file.read_bytes() for file in files}
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, now + 2**31))
resource.setrlimit(resource.RLIMIT_CPU, (150, 150))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
draw, told = random.Random(3), {"read": 0, "refused": 0}
for turn in range(count):
    file = files[turn % len(files)]
    content = bytearray(whole[file])
    reach = min(len(content), 600) if turn % 2 else len(content)
    match draw.randrange(4):
        case 0:
            content = content[: draw.randrange(reach)]
        case 1:
            for _ in range(draw.randint(1, 8)):
                content[draw.randrange(reach)] = draw.randrange(256)
        case 2:
            place, size = draw.randrange(reach), draw.choice([2, 4, 8])
            content[place : place + size] = content[place : place + size][::-1]
        case 3:
            place = draw.randrange(reach)
            content[place : place + 8] = draw.choice([b"\\xff" * 8, b"\\x7f" * 4, b"9" * 8, b"0"])
    file.write_bytes(content)
    for faults in (None, ListedFaults()):
        try:
            read_all(source, study, folder, *([faults] if faults else []))
            told["refused" if faults and faults.found else "read"] += 1
        except FedwardError as error:
            assert "\\n" not in error.line() and len(error.line()) < 5000, error.line()
            told["refused"] += 1
    file.write_bytes(whole[file])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
assert grown < 2**29, grown
print(json.dumps(told))
"""
Made = tuple[dict[str, Any], dict[str, Any], list[str]]
IMAGES: dict[str, Any] = {"kind": "images", "shape": [1, 8, 8]}
SIGNALS: dict[str, Any] = {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8}


def archive(folder: Path) -> Made:
    rng = np.random.default_rng(0)
    np.savez_compressed(
        folder / "a.npz",
        images=rng.integers(0, 255, (6, 8, 8), dtype=np.uint8),
        labels=np.arange(6) % 2,
        who=np.array(list("aabbcc")),
    )
    return {"format": "npz", "path": "a.npz", "patient": "who"}, IMAGES, ["a.npz"]


def pictures(folder: Path) -> Made:
    rng = np.random.default_rng(0)
    for name in ("x.png", "y.jpg"):
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / name)
    (folder / "labels.csv").write_text("file,label,who\nx.png,0,a\ny.jpg,1,b\n")
    source = {"format": "folder", "path": ".", "labels": "labels.csv", "patient": "who"}
    return source, IMAGES, ["x.png", "y.jpg", "labels.csv"]


def volumes(folder: Path) -> Made:
    values = np.random.default_rng(0).integers(0, 200, (8, 8, 1)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / "x.nii")
    (folder / "y.nii.gz").write_bytes(gzip.compress((folder / "x.nii").read_bytes()))
    (folder / "labels.csv").write_text("file,label,who\nx.nii,0,a\ny.nii.gz,1,b\n")
    source = {"format": "nifti", "path": ".", "labels": "labels.csv", "patient": "who"}
    return source, {**IMAGES, "window": [100.0, 200.0]}, ["x.nii", "y.nii.gz", "labels.csv"]


def wfdb(folder: Path) -> Made:
    write_wfdb(folder, "100", ramp(200, 1), {50: "N", 100: "V", 150: "N"})
    files = ["100.hea", "100.dat", "100.atr"]
    cut = {"by": "annotation", "before": 3}
    values = [["N"], ["V"]]
    source = {"format": "wfdb", "path": ".", "annotations": "atr"}
    return source, {**SIGNALS, "cut": cut, "class_values": values}, files


def tables(folder: Path) -> Made:
    (folder / "x.csv").write_text("t,a\n" + "".join(f"{n},{n / 7}\n" for n in range(40)))
    (folder / "labels.csv").write_text("file,label,who\nx.csv,0,p\n")
    source = {"format": "signal-csv", "path": ".", "labels": "labels.csv", "patient": "who"}
    return source | {"rate": 100.0}, SIGNALS, ["x.csv", "labels.csv"]


def signals(folder: Path) -> Made:
    values = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    np.savez_compressed(folder / "a.npz", signals=values, labels=np.arange(4) % 2, who=list("aabb"))
    source = {"format": "signal-npz", "path": "a.npz", "patient": "who", "channels": ["a"]}
    return source | {"rate": 100.0}, SIGNALS, ["a.npz"]


def bundles(folder: Path) -> Made:
    good = bundle(patient(), pulse(60, "2020-01-01"), stroke("2021-01-01"))
    (folder / "d").mkdir()
    (folder / "d" / "a.json.gz").write_bytes(gzip.compress(json.dumps(good).encode()))
    lines = [json.dumps(patient("b")), json.dumps(pulse(70, "2020-01-01", "Patient/b"))]
    (folder / "d" / "b.ndjson").write_text("\n".join(lines))
    data = study_of(missing="drop").contract()["data"]
    return {"format": "fhir", "path": "d"}, plain(data), ["d/a.json.gz", "d/b.ndjson"]


def omop(folder: Path) -> Made:
    database(folder, measured(60, "2020-01-01"), measured(70, "2020-01-02"))
    with sqlite3.connect(folder / "omop.sqlite") as made:
        made.execute("vacuum")
    data = study_of(BOTH, label=LABEL, missing="drop").contract()["data"]
    return {"format": "omop", "path": "omop.sqlite"}, plain(data), ["omop.sqlite"]


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """A contract's data as a study file has it."""
    whole = {**data, "features": dict(data["features"])}
    found: dict[str, Any] = json.loads(json.dumps(whole), object_hook=_some)
    return found


def _some(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


@pytest.mark.slow
@pytest.mark.parametrize("make", [archive, pictures, volumes, wfdb, tables, signals, bundles, omop])
def test_every_file_is_read_or_refused_in_one_line(
    make: Callable[[Path], Made], tmp_path: Path
) -> None:
    source, data, files = make(tmp_path)
    (tmp_path / "hospital.toml").write_text(tomli_w.dumps({"name": "n", "data": source}))
    study = {
        "study": {"name": "tiny"},
        "task": {"kind": "binary", "classes": ["no", "yes"]},
        "model": {"name": "any"},
        "data": data,
        "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
        "participation": {"hospitals": 3},
    }
    (tmp_path / "study.json").write_text(json.dumps(study))

    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), "240", *files],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["refused"] > 30
