"""`fedward data`, as the staff of a hospital run it."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pydicom
import tomli_w

from tests.cli.conftest import Fedward, study_values
from tests.client.data.dicom_made import made, ramp, save


def test_check_is_the_same_under_both_names(fedward: Fedward, tmp_path: Path) -> None:
    for number in range(12):
        image = made(
            ramp(seed=number // 2),  # each image twice, of two patients
            PatientID=f"p{number}",
            Modality="US",
            SeriesInstanceUID=f"1.2.{number}",
        )
        save(image, tmp_path / "scans" / ("benign", "malignant")[number % 2] / f"{number}.dcm")
    (tmp_path / "scans" / "benign" / "report.dcm").write_bytes(b"no image at all")
    data = {"kind": "images", "shape": [1, 4, 6], "unreadable": "drop"}
    values = study_values()
    values["data"] = data
    values["model"] = {"name": "small_cnn"}
    (tmp_path / "study.toml").write_bytes(tomli_w.dumps(values).encode())
    hospital = {"name": "north", "data": {"format": "dicom", "path": "scans"}}
    (tmp_path / "hospital.toml").write_bytes(tomli_w.dumps(hospital).encode())

    said = fedward("data", "check", "hospital.toml", "--study", "study.toml")
    other = fedward("hospital", "data", "check", "--study", "study.toml")

    assert said.code == 0, said.err
    assert said.out == other.out
    out = " ".join(said.out.split())
    assert "12 can be used, 0 cannot, 1 left out" in out
    assert "report.dcm: has no DICOM header" in out
    assert "modality US 12" in out
    assert "sizes 6 x 4 (12)" in out
    assert "12 files do not say whether words are burnt into their pixels" in out
    assert "6 records are also another patient's: rows 8, 9, 10, 11, 12" in out


def test_deidentify_writes_a_folder_and_names_what_it_leaves_out(
    fedward: Fedward, tmp_path: Path
) -> None:
    save(made(ramp(), PatientName="Quirin^Q", Modality="US"), tmp_path / "src" / "Quirin.dcm")
    (tmp_path / "src" / "bad.dcm").write_bytes(b"x")

    said = fedward("data", "deidentify", "src", "dst")

    assert said.code == 2
    assert "written: 1 files in dst" in said.out
    assert "bad.dcm" in said.err
    assert "1 files may have names drawn into their pixels" in said.err
    (path,) = (tmp_path / "dst").rglob("*.dcm")
    assert b"Quirin" not in path.read_bytes()
    assert np.array_equal(pydicom.dcmread(path).pixel_array, ramp())
    assert stat.S_IMODE((tmp_path / "deidentify.key").stat().st_mode) == 0o600
    assert "Quirin" not in (tmp_path / "dst.report.csv").read_text(encoding="utf-8")
    assert "is there already" in fedward("data", "deidentify", "src", "dst").only_error()
