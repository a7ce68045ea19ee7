"""Real images through `hospital.toml` alone: counts of their READMEs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.data.reading import read_parts
from tests.client.data.conftest import Ward, shared

ANY_SIZE: dict[str, Any] = {
    "task": {"kind": "reconstruction"},
    "model": {"name": "autoencoder"},
    "data": {"kind": "images", "shape": [1, 64, 64], "resize": "fit", "label": []},
}
NO_IMAGES = {
    "badVR": "cannot be read as DICOM",  # malformed
    "no_meta": "has no DICOM header",  # malformed
    "reportsi": "holds no image (Basic Text SR Storage)",
    "rtplan": "holds no image (RT Plan Storage)",
    "waveform_ecg": "holds no image (12-lead ECG Waveform Storage)",
    "JPEG-lossy": "JPEG Extended (Process 2 and 4)",  # needs a decoder that we do not bring
}
SIZES: dict[tuple[int, ...], list[str]] = {  # channels, height and width: files
    (1, 128, 128): ["CT_small"],
    (1, 64, 64): ["MR_small", "MR_small_RLE"],
    (1, 1024, 256): ["JPEG2000"],
    (1, 300, 484): ["examples_overlay"],
    (3, 3, 3): ["SC_rgb_small_odd"],
}


def test_of_pydicoms_twelve_files_each_is_read_or_named(ward: Ward) -> None:
    """The tag PatientID names the patient: five of them."""
    folder = shared("dicom_pydicom")
    assert len(list(folder.glob("*.dcm"))) == 12
    source = {"format": "dicom", "path": str(folder), "patient": "PatientID"}

    found = ward.check(source, ANY_SIZE)

    facts = dict(found.facts)
    assert facts["records"] == "6 can be used, 6 cannot, 0 left out"
    assert facts["modality"] == "CT 1, MR 3, NM 2, OT 1"
    assert facts["patients"] == "5; the one with most records has 2"
    told = {Path(line.split(": ")[0]).stem: line for line in found.problems}
    assert told.keys() == NO_IMAGES.keys()
    assert len(found.problems) == len(NO_IMAGES)
    for name, what in NO_IMAGES.items():
        assert what in told[name]


def test_where_the_study_allows_it_the_six_are_left_out_and_named(ward: Ward) -> None:
    source = {"format": "dicom", "path": str(shared("dicom_pydicom")), "patient": "record"}

    found = ward.check(source, {**ANY_SIZE, "data.unreadable": "drop"})

    assert found.problems == []
    assert dict(found.facts)["records"] == "6 can be used, 0 cannot, 6 left out"
    told = [text for word, text in found.facts if word == "left out"]
    assert [Path(line.split(": ")[0]).stem for line in told] == list(NO_IMAGES)


@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_images_are_read_in_their_own_size(shape: tuple[int, ...], ward: Ward) -> None:
    """A table names the files of one size; the others are no part of the study."""
    (ward.folder / "scans").mkdir()
    for file in shared("dicom_pydicom").glob("*.dcm"):
        (ward.folder / "scans" / file.name).write_bytes(file.read_bytes())
    rows = "".join(f"{name}.dcm\n" for name in SIZES[shape])
    ward.write("scans/labels.csv", "file\n" + rows)
    source = {"format": "dicom", "path": "scans", "labels": "labels.csv", "patient": "record"}
    data = {"kind": "images", "shape": list(shape), "label": []}

    raw = ward.read(source, {**ANY_SIZE, "data": data})

    assert raw.names.tolist() == [f"{name}.dcm" for name in SIZES[shape]]
    assert raw.whole.shape == (len(SIZES[shape]), *shape)
    assert (raw.whole == raw.whole[0]).all()  # compressed or not
    assert raw.whole.min() < raw.whole.max()
    facts = {word: text for word, text in raw.facts if word == "not listed"}
    assert facts["not listed"].startswith(f"{12 - len(SIZES[shape])} images are in no row")


XRAYS: dict[str, Any] = {
    "task.classes": ["normal", "pneumonia"],
    "model": {"name": "linear"},
    "data": {"kind": "images", "shape": [1, 28, 28], "parts": {"by": "file"}},
}


def test_pneumoniamnist_has_its_published_counts(ward: Ward) -> None:
    archive = shared("pneumoniamnist") / "pneumoniamnist.npz"
    source = {"format": "npz", "path": str(archive), "patient": "record"}

    parts = read_parts(ward.hospital(source), ward.study_with(XRAYS), ward.folder)

    counts = {part: np.bincount(records.whole_labels).tolist() for part, records in parts.items()}
    assert counts == {"train": [1214, 3494], "validation": [135, 389], "test": [234, 390]}
    with np.load(archive, allow_pickle=False) as stored:
        for part, records in parts.items():
            prefix = "val" if part == "validation" else part
            pixels = stored[f"{prefix}_images"][:, None] / np.float32(127.5) - 1
            np.testing.assert_allclose(records.whole, pixels, atol=1e-6)
            labels = stored[f"{prefix}_labels"].reshape(-1)
            np.testing.assert_array_equal(records.whole_labels, labels)


def test_the_check_of_pneumoniamnist_tells_of_its_images_that_repeat_others(ward: Ward) -> None:
    """18 within train, 3 within test, and 8 of validation that are in train."""
    archive = shared("pneumoniamnist") / "pneumoniamnist.npz"

    found = ward.check({"format": "npz", "path": str(archive), "patient": "record"}, XRAYS)

    told = [f"{word} {text}".strip() for word, text in found.facts]
    assert found.problems == []
    assert "records 5856 can be used, 0 cannot, 0 left out" in told
    for line in (
        "look at 8 records for validation or test have the inputs of a training record",
        f"look at {18 + 3 + 8} records are also another patient's",
    ):
        assert any(text.startswith(line) for text in told), line
