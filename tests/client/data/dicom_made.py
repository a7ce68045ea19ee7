"""Small DICOM files that tests make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

ROOT = Path(__file__).resolve().parents[3]
SHARED = ROOT.parent / "shared" / "data" / "dicom_pydicom"


def made(pixels: NDArray[Any], **tags: Any) -> Dataset:  # noqa: ANN401
    """A CT image; frames come first in the pixels if `NumberOfFrames` is among the tags."""
    dataset = Dataset()
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    uid = tags.pop("SOPInstanceUID", generate_uid(entropy_srcs=[str(tags), str(pixels.sum())]))
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid
    dataset.file_meta = meta
    colour = pixels.ndim - ("NumberOfFrames" in tags) == 3
    bits = pixels.dtype.itemsize * 8
    values: dict[str, Any] = {
        "Modality": "CT",
        "PatientID": "p1",
        "SeriesInstanceUID": "1.2.3",
        "SamplesPerPixel": 3 if colour else 1,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "Rows": pixels.shape[-3 if colour else -2],
        "Columns": pixels.shape[-2 if colour else -1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        **({"PlanarConfiguration": 0} if colour else {}),
        **tags,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW" if bits > 8 else "OB"
    return dataset


def save(dataset: Dataset, path: Path) -> Path:
    """Write a file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def ramp(height: int = 4, width: int = 6, kind: type = np.uint16, seed: int = 0) -> NDArray[Any]:
    """Pixels over the whole range of a type."""
    info = np.iinfo(kind)
    rng = np.random.default_rng(seed)
    return rng.integers(info.min, info.max, (height, width), dtype=kind, endpoint=True)


def read(path: Path) -> Dataset:
    """A file as pydicom reads it."""
    return pydicom.dcmread(path)
