"""Files of every kind that a hospital may have, and how a plain program reads the same records.

Each function of `KINDS` writes files of its own into a folder; nothing is fetched.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from fedward.client.data.sources import (
    CsvSource,
    DicomSource,
    FolderSource,
    NiftiSource,
    ParquetSource,
    SignalArchiveSource,
    Source,
    WfdbSource,
)
from fedward.study.study import Study, parse_study

BATCH = 64
FEATURES = [f"f{number}" for number in range(20)]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        name: For the table.
        study: That asks for them.
        source: As in `hospital.toml`, with an absolute path.
        count: Records.
        whole: All records as a plain program reads them, float32, exactly what the study asks for.
        peer: What that program is.
        record: Record n as it reads it, where it reads one after another.
        files: Of the records, where MONAI reads them too.
        ends: Values that become -1 and 1 there.
        others: Further plain programs for all records, by what they are.
    """

    name: str
    study: Study
    source: Source
    count: int
    whole: Callable[[], Floats]
    peer: str
    record: Callable[[int], Floats] | None = None
    files: tuple[Path, ...] = ()
    ends: tuple[float, float] = (0.0, 1.0)
    others: Mapping[str, Callable[[], Floats]] = field(default_factory=dict)


def _study(data: dict[str, Any], task: dict[str, Any] | None = None) -> Study:
    return parse_study(
        {
            "study": {"name": "data"},
            "task": task or {"kind": "binary", "classes": ["no", "yes"]},
            "model": {"name": "any"},
            "data": data,
            "training": {"rounds": 1, "local_epochs": 1, "batch_size": BATCH, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


def _one_by_one(
    name: str, study: Study, source: Source, count: int, record: Callable[[int], Floats], peer: str
) -> Kind:
    def whole() -> Floats:
        found = np.empty((count, *study.data.input_shape), dtype=np.float32)
        for number in range(count):
            found[number] = record(number)
        return found

    return Kind(name, study, source, count, whole, peer, record)


# --- Tables ---------------------------------------------------------------------------------------


def csv(folder: Path, quick: bool) -> Kind:
    return _table(folder, "csv", 1_000 if quick else 200_000)


def parquet(folder: Path, quick: bool) -> Kind:
    return _table(folder, "parquet", 1_000 if quick else 200_000)


def _table(folder: Path, form: str, rows: int) -> Kind:
    """20 numbers and a category; two rows a patient."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, 20)).round(4), columns=FEATURES)
    frame["sex"], frame["ill"] = rng.choice(["f", "m"], rows), rng.integers(0, 2, rows)
    frame["who"] = [f"p{number // 2}" for number in range(rows)]
    path = folder / f"t.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    numbers = {name: {"center": 1.0, "scale": 2.0} for name in FEATURES}
    features = {**numbers, "sex": {"categories": ["f", "m"]}}
    own = CsvSource if form == "csv" else ParquetSource
    source = own.model_validate({"format": form, "path": str(path), "patient": "who"})

    def whole(types: dict[str, type] | None = None) -> Floats:
        found = pd.read_csv(path, dtype=types) if form == "csv" else pd.read_parquet(path)
        inputs = np.empty((len(found), 22), np.float32)
        inputs[:, :20] = (found[FEATURES].to_numpy() - 1.0) / 2.0
        inputs[:, 20], inputs[:, 21] = found["sex"] == "f", found["sex"] == "m"
        if not np.isfinite(inputs).all():
            raise ValueError
        found["ill"].to_numpy()
        pd.factorize(found["who"])
        return inputs

    study = _study({"kind": "table", "label": "ill", "features": features})
    said = "CSV" if form == "csv" else "Parquet"
    kind = Kind(f"{said}, 21 columns", study, source, rows, whole, f"pandas.read_{form}")
    if form != "csv":
        return kind
    texts = dict.fromkeys(("sex", "ill", "who"), str)  # a patient 007 is not 7
    return replace(kind, others={"pandas.read_csv, texts as written": lambda: whole(texts)})


# --- Signals --------------------------------------------------------------------------------------


def npz(folder: Path, quick: bool) -> Kind:
    """Single beats, as those of MIT-BIH are often kept: 128 samples of 16 bits, deflated."""
    count, rng, path = 500 if quick else 100_000, np.random.default_rng(0), folder / "beats.npz"
    steps = rng.normal(0, 12, (count, 128)).cumsum(axis=1).astype(np.int16)
    ill, who = rng.integers(0, 2, count).astype(np.int8), np.arange(count) // 2_000
    np.savez_compressed(path, signals=steps, labels=ill, who=who.astype(np.int16))
    study = _study(
        {"kind": "signals", "channels": ["MLII"], "rate": 180, "length": 128, "scale": [200]}
    )
    source = SignalArchiveSource(
        format="signal-npz", path=str(path), channels=("MLII",), rate=180, patient="who"
    )

    def whole() -> Floats:
        with np.load(path, allow_pickle=False) as stored:
            signals: Floats = stored["signals"].astype(np.float32)[:, None] / np.float32(200)
            stored["labels"].astype(np.int64)
            pd.factorize(stored["who"])
        return signals

    return Kind("NumPy archive, 128 samples", study, source, count, whole, "numpy.load")


def wfdb(folder: Path, quick: bool) -> Kind:
    """Recordings of 12 channels, 10 s at 500 a second, of which a study wants 8."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wfdb as library
    count, rng = 10 if quick else 300, np.random.default_rng(0)
    channels = [f"C{number}" for number in range(12)]
    for number in range(count):
        digital = rng.normal(0, 9, (5_000, 12)).cumsum(axis=0).clip(-9e3, 9e3).astype(np.int16)
        library.wrsamp(
            f"r{number}", fs=500, units=["mV"] * 12, sig_name=channels, d_signal=digital,
            fmt=["16"] * 12, adc_gain=[200.0] * 12, baseline=[0] * 12, write_dir=str(folder),
        )  # fmt: skip
    lines = [f"r{number},{number % 2}\n" for number in range(count)]
    (folder / "labels.csv").write_text("file,label\n" + "".join(lines), encoding="utf-8")
    wanted = {"channels": channels[:8], "rate": 500, "length": 4_500, "scale": [2.0] * 8}
    source = WfdbSource(format="wfdb", path=str(folder), labels="labels.csv", patient="record")

    def record(number: int) -> Floats:
        read = library.rdrecord(str(folder / f"r{number}"), channels=list(range(8)))
        cut: Floats = (read.p_signal.T[:, :4_500] / 2.0).astype(np.float32)
        return cut

    study = _study({"kind": "signals", **wanted})
    return _one_by_one("WFDB, 8 of 12 channels", study, source, count, record, "wfdb.rdrecord")


# --- DICOM ----------------------------------------------------------------------------------------


def dicom(folder: Path, quick: bool) -> Kind:
    return _dicom(folder, "CT_small.dcm", "DICOM CT 128 x 128", 8 if quick else 300)


def dicom_jpeg2000(folder: Path, quick: bool) -> Kind:
    return _dicom(folder, "JPEG2000.dcm", "DICOM JPEG 2000 1024 x 256", 8 if quick else 100)


def dicom_overlay(folder: Path, quick: bool) -> Kind:
    return _dicom(folder, "examples_overlay.dcm", "DICOM MR 484 x 300", 8 if quick else 200)


def _dicom(folder: Path, example: str, name: str, count: int) -> Kind:
    """Copies of a file that pydicom comes with, with a window over all values."""
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut

    known = Path(pydicom.__file__).parent / "data" / "test_files" / example
    files = [folder / "yes" / f"{number:05}.dcm" for number in range(count)]
    files[0].parent.mkdir()
    for file in files:
        shutil.copy(known, file)
    first = pydicom.dcmread(known)
    middle, width = 600.0, 2_000.0
    shape = [1, int(first.Rows), int(first.Columns)]

    def record(number: int) -> Floats:
        read = pydicom.dcmread(files[number])
        return _windowed(apply_modality_lut(read.pixel_array, read), middle, width)[None]

    data = {"kind": "images", "shape": shape, "window": [middle, width]}
    source = DicomSource(format="dicom", path=str(folder), patient="record")
    kind = _one_by_one(name, _study(data), source, count, record, "pydicom")
    return replace(kind, files=tuple(files), ends=(middle - width / 2, middle + width / 2))


def _windowed(found: NDArray[Any], middle: float, width: float) -> Floats:
    """From -1 to 1."""
    values: Floats = found.astype(np.float32)
    values -= np.float32(middle - width / 2)
    values /= np.float32(width)
    np.clip(values, 0, 1, out=values)
    values -= np.float32(0.5)
    values /= np.float32(0.5)
    return values


# --- Pictures -------------------------------------------------------------------------------------


def small_png(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "PNG 28 x 28 grey", (1, 28, 28), "png", 64 if quick else 4_000)


def large_png(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "PNG 512 x 512 grey", (1, 512, 512), "png", 64 if quick else 300)


def jpeg(folder: Path, quick: bool) -> Kind:
    return _pictures(folder, "JPEG 224 x 224 colour", (3, 224, 224), "jpg", 64 if quick else 800)


def _pictures(folder: Path, name: str, shape: tuple[int, int, int], end: str, count: int) -> Kind:
    """Smooth pictures with a little noise, as scans are, in a folder a class."""
    rng, files = np.random.default_rng(0), []
    channels, *size = shape
    across = np.linspace(0, 9, size[0])
    for number in range(count):
        smooth = 60 * np.add.outer(np.sin(across + number), np.cos(across * 1.3)) + 128
        noisy = np.stack([smooth + rng.normal(0, 5, size) for _ in range(channels)], axis=-1)
        pixels = noisy.clip(0, 255).astype(np.uint8)
        file = folder / ("no", "yes")[2 * number // count] / f"{number:06}.{end}"
        file.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file)
        files.append(file)
    mode = "L" if channels == 1 else "RGB"

    def record(number: int) -> Floats:
        with Image.open(files[number]) as image:
            pixels = np.asarray(image.convert(mode), dtype=np.float32)
        pixels = (pixels / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        return pixels[None] if channels == 1 else np.moveaxis(pixels, -1, 0)

    source = FolderSource(format="folder", path=str(folder), patient="record")
    study = _study({"kind": "images", "shape": list(shape)})
    kind = _one_by_one(name, study, source, count, record, "PIL")
    return replace(kind, files=tuple(files), ends=(0.0, 255.0))


# --- Volumes --------------------------------------------------------------------------------------


def nifti(folder: Path, quick: bool) -> Kind:
    """Volumes of 32 x 64 x 64 voxels of 16 bits, packed, along the axes of RAS."""
    import nibabel

    count, rng = 4 if quick else 60, np.random.default_rng(0)
    files = [folder / f"{number:04}.nii.gz" for number in range(count)]
    for file in files:
        voxels = rng.normal(0, 9, (64, 64, 32)).cumsum(axis=0).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), file)
    lines = [f"{file.name},{number % 2}\n" for number, file in enumerate(files)]
    (folder / "labels.csv").write_text("file,label\n" + "".join(lines), encoding="utf-8")

    def record(number: int) -> Floats:
        voxels = np.asanyarray(nibabel.load(files[number]).dataobj)
        return _windowed(voxels.transpose(2, 1, 0), 0.0, 400.0)[None]

    data = {"kind": "images", "shape": [1, 32, 64, 64], "window": [0.0, 400.0]}
    source = NiftiSource(format="nifti", path=str(folder), labels="labels.csv", patient="record")
    kind = _one_by_one("NIfTI 32 x 64 x 64", _study(data), source, count, record, "nibabel")
    return replace(kind, files=tuple(files), ends=(-200.0, 200.0))


KINDS = [
    csv,
    parquet,
    npz,
    wfdb,
    dicom,
    dicom_jpeg2000,
    dicom_overlay,
    small_png,
    large_png,
    jpeg,
    nifti,
]
