"""Every reader finds columns as `columns_are` calls them, and refuses a nameless patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from fedward.study.errors import DataError
from tests.client.data.conftest import Ward
from tests.client.data.dicom_made import made, ramp, save
from tests.client.data.test_edf import write as write_edf
from tests.client.data.test_wfdb_records import ramp as rising
from tests.client.data.test_wfdb_records import write as write_wfdb

IMAGES: dict[str, Any] = {"kind": "images", "shape": [1, 4, 6]}
SIGNALS: dict[str, Any] = {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8}
THEIRS = {"file": "Datei", "part": "Teil", "label": "Befund", "patient": "Fall"}


def folder(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for name in ("x.png", "y.png"):
        Image.fromarray(np.zeros((4, 6), np.uint8)).save(ward.folder / name)
    return "x.png", "y.png", {"format": "folder"}


def nifti(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for name in ("x.nii", "y.nii"):
        nibabel.save(
            nibabel.Nifti1Image(np.ones((6, 4, 1), np.uint8), np.eye(4)), ward.folder / name
        )
    return "x.nii", "y.nii", {"format": "nifti"}


def dicom(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for seed, name in enumerate(("x.dcm", "y.dcm")):
        save(made(ramp(seed=seed), PatientID="another"), ward.folder / name)
    return "x.dcm", "y.dcm", {"format": "dicom"}


def wfdb(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for name in ("100", "101"):
        write_wfdb(ward.folder, name, rising())
    return "100", "101", {"format": "wfdb"}


def edf(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for name in ("x.edf", "y.edf"):
        write_edf(ward.folder / name)
    return "x.edf", "y.edf", {"format": "edf"}


def tables(ward: Ward) -> tuple[str, str, dict[str, Any]]:
    for name in ("x.csv", "y.csv"):
        ward.write(name, "a\n" + "1\n" * 8)
    return "x.csv", "y.csv", {"format": "signal-csv", "rate": 100.0}


Make = Callable[[Ward], tuple[str, str, dict[str, Any]]]
ALL = pytest.mark.parametrize("make", [folder, nifti, dicom, wfdb, edf, tables])


def changes(make: Make) -> dict[str, object]:
    data = IMAGES if make in (folder, nifti, dicom) else SIGNALS
    return {"data": {**data, "label": "label", "parts": {"by": "file"}}}


@ALL
@pytest.mark.parametrize("patient", ["patient", "Fall"])
def test_columns_of_a_table_of_labels_may_be_called_anything(
    make: Make, patient: str, ward: Ward
) -> None:
    first, second, source = make(ward)
    ward.write("t.csv", f"Datei,Befund,Fall,Teil\n{first},0,p7,train\n{second},1,p8,test\n")

    raw = ward.read(
        {**source, "path": ".", "labels": "t.csv", "patient": patient, "columns_are": THEIRS},
        changes(make),
    )

    assert raw.whole_labels.tolist() == [0, 1]
    assert raw.names.tolist() == ["p7", "p8"]
    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "test"]


@ALL
def test_a_record_whose_patient_nobody_names_is_refused(make: Make, ward: Ward) -> None:
    first, second, source = make(ward)
    ward.write("t.csv", f"file,label,patient\n{first},0,p7\n{second},1,  \n")
    source |= {"path": ".", "labels": "t.csv", "patient": "patient"}

    with pytest.raises(DataError, match="has no patient"):
        ward.read(source, changes(make))


@pytest.mark.parametrize("format_", ["npz", "signal-npz"])
def test_keys_of_archives_too(format_: str, ward: Ward) -> None:
    names = np.array(["p7", "p8"])
    entries: dict[str, Any] = {"labels": np.array([0, 1]), "Fall": names}
    if format_ == "npz":
        np.savez(ward.folder / "a.npz", images=np.zeros((2, 4, 6), np.uint8), **entries)
        source: dict[str, Any] = {"format": "npz"}
    else:
        signals = np.zeros((2, 8), np.float32)
        parts = np.array(["train", "test"])
        np.savez(ward.folder / "a.npz", signals=signals, Teil=parts, **entries)
        source = {"format": "signal-npz", "channels": ["a"], "rate": 100.0}
    source |= {"path": "a.npz", "patient": "patient", "columns_are": THEIRS}
    data = IMAGES if format_ == "npz" else SIGNALS

    raw = ward.read(source, {"data": data})

    assert raw.names.tolist() == ["p7", "p8"]
    assert format_ == "npz" or (raw.parts is not None and raw.parts.tolist() == ["train", "test"])


def test_an_archive_with_a_nameless_patient_is_refused(ward: Ward, tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        images=np.zeros((2, 4, 6), np.uint8),
        labels=np.array([0, 1]),
        who=np.array(["p7", ""]),
    )
    source = {"format": "npz", "path": "a.npz", "patient": "who"}

    with pytest.raises(DataError, match="record 2 has no patient"):
        ward.read(source, {"data": IMAGES})
    assert any(
        "record 2 has no patient" in p for p in ward.check(source, {"data": IMAGES}).problems
    )
