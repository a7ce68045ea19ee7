"""DICOM: pixels as pydicom itself has them, and every file that is no image named."""

from __future__ import annotations

import logging
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_windowing
from pydicom.uid import RLELossless

from fedward.client.data.dicom_files import heads_of
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all, read_parts
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import DicomSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from fedward.study.study import Study
from tests.client.data.dicom_made import SHARED, made, ramp, save

StudyWith = Callable[[Mapping[str, object]], Study]
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="pydicom's files are not on this machine")

PLAIN: dict[str, Any] = {"kind": "images", "center": 0.0, "scale": 1.0, "label": []}


@pytest.fixture
def read(tmp_path: Path, study_with: StudyWith) -> Callable[..., RawRecords]:
    """Reads the folder `d`, for a study that asks for no labels unless told otherwise."""

    def reading(
        shape: tuple[int, ...] = (1, 4, 6),
        *,
        faults: ListedFaults | None = None,
        folder: Path | None = None,
        data: Mapping[str, Any] | None = None,
        task: Mapping[str, Any] | None = None,
        **source: Any,  # noqa: ANN401
    ) -> RawRecords:
        values = {**PLAIN, "shape": list(shape), **(data or {})}
        study = study_with({"task": task or {"kind": "reconstruction"}, "data": values})
        here = folder or tmp_path / "d"
        where = DicomSource(format="dicom", path=here.name, **source)
        if faults is None:
            return read_all(where, study, here.parent)
        return read_all(where, study, here.parent, faults)

    return reading


Read = Callable[..., RawRecords]
BINARY = {"kind": "binary", "classes": ["benign", "malignant"]}


# --- Pixels are pydicom's own ---------------------------------------------------------------------


@shared
def test_a_window_in_hounsfield_units_is_pydicoms(read: Read, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    path = tmp_path / "d" / "ct"
    path.write_bytes((SHARED / "CT_small.dcm").read_bytes())

    raw = read((1, 128, 128), data={"window": [40.0, 400.0]})

    ct = pydicom.dcmread(SHARED / "CT_small.dcm")
    values = apply_modality_lut(ct.pixel_array, ct)
    assert values.min() < -160
    assert values.max() > 240
    ct.WindowCenter, ct.WindowWidth, ct.VOILUTFunction = 40, 400, "LINEAR_EXACT"
    shown = apply_windowing(values, ct)
    expected = (shown - shown.min()) / (shown.max() - shown.min())
    assert raw.whole[0, 0] == pytest.approx(expected, abs=1e-6)
    assert raw.names.tolist() == ["1CT1"]


@shared
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("CT_small", -32768, 32767),
        ("MR_small", -32768, 32767),
        ("MR_small_RLE", -32768, 32767),
        ("JPEG2000", -32768, 32767),
        ("examples_overlay", 0, 4095),
        ("SC_rgb_small_odd", 0, 255),
    ],
)
def test_the_stored_range_becomes_zero_to_one(
    name: str, low: int, high: int, read: Read, tmp_path: Path
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / name).write_bytes((SHARED / f"{name}.dcm").read_bytes())
    stored = pydicom.dcmread(SHARED / f"{name}.dcm").pixel_array
    planes = np.moveaxis(stored, -1, 0) if stored.ndim == 3 else stored[None]

    raw = read(planes.shape)

    assert raw.whole[0] == pytest.approx((planes - float(low)) / (high - low), abs=1e-6)
    assert raw.whole.dtype == np.float32


def test_slope_and_intercept_do_not_change_the_stored_range(read: Read, tmp_path: Path) -> None:
    pixels = ramp()
    save(made(pixels, RescaleSlope=2, RescaleIntercept=-1024), tmp_path / "d" / "a.dcm")

    assert read().whole[0, 0] == pytest.approx(pixels / 65535, abs=1e-6)


def test_a_lookup_table_gives_the_values(read: Read, tmp_path: Path) -> None:
    pixels = ramp(kind=np.uint8) // 64
    dataset = made(pixels)
    lut = pydicom.Dataset()
    lut.LUTDescriptor = [4, 0, 16]
    lut["LUTDescriptor"].VR = "US"
    lut.ModalityLUTType = "US"
    lut.LUTData = [0, 100, 40000, 65535]
    lut["LUTData"].VR = "US"
    dataset.ModalityLUTSequence = [lut]
    save(dataset, tmp_path / "d" / "a.dcm")

    raw = read()

    expected = apply_modality_lut(dataset.pixel_array, dataset)
    assert set(expected.ravel().tolist()) == {0, 100, 40000, 65535}
    assert raw.whole[0, 0] == pytest.approx(expected / 65535, abs=1e-6)


@pytest.mark.parametrize("window", [None, [30000.0, 20000.0]])
def test_monochrome1_is_turned_so_that_white_is_one(
    window: list[float] | None, read: Read, tmp_path: Path
) -> None:
    pixels = ramp()
    for name in ("MONOCHROME1", "MONOCHROME2"):
        save(made(pixels, PhotometricInterpretation=name), tmp_path / "d" / f"{name}.dcm")

    one, two = read(data={} if window is None else {"window": window}).whole

    assert one == pytest.approx(1 - two, abs=1e-6)
    assert two.max() > two.min()


def test_a_palette_becomes_its_colours(read: Read, tmp_path: Path) -> None:
    dataset = made(ramp(kind=np.uint8) // 128, PhotometricInterpretation="PALETTE COLOR")
    for colour, pair in {"Red": b"\x00\xff", "Green": b"\x80\x40", "Blue": b"\x10\x20"}.items():
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 8])
        dataset[f"{colour}PaletteColorLookupTableDescriptor"].VR = "US"
        setattr(dataset, f"{colour}PaletteColorLookupTableData", pair)
    save(dataset, tmp_path / "d" / "a.dcm")

    raw = read((3, 4, 6))

    expected = np.moveaxis(apply_color_lut(dataset.pixel_array, dataset), -1, 0)
    assert raw.whole[0] == pytest.approx(expected / 255, abs=1e-6)


def test_colour_is_made_grey_where_one_channel_is_asked_for(read: Read, tmp_path: Path) -> None:
    pixels = np.stack([ramp(kind=np.uint8, seed=s) for s in range(3)], axis=-1)
    save(made(pixels), tmp_path / "d" / "a.dcm")

    grey = pixels @ [0.299, 0.587, 0.114]
    assert read().whole[0, 0] == pytest.approx(grey / 255, abs=1e-6)


def test_compression_changes_no_pixel(read: Read, tmp_path: Path) -> None:
    pixels = ramp()
    save(made(pixels), tmp_path / "d" / "a.dcm")
    packed = made(pixels)
    packed.compress(RLELossless)
    save(packed, tmp_path / "d" / "b.dcm")

    plain, unpacked = read().whole

    assert np.array_equal(plain, unpacked)


# --- Frames and volumes ---------------------------------------------------------------------------


def frames(count: int = 3) -> NDArray[np.uint16]:
    return np.stack([ramp(seed=seed) for seed in range(count)]).astype(np.uint16)


def test_many_frames_are_refused_unless_the_hospital_says_what_they_are(
    read: Read, tmp_path: Path
) -> None:
    save(made(frames(), NumberOfFrames=3), tmp_path / "d" / "a.dcm")

    with pytest.raises(DataError, match=r'3 frames.*frames = "each"'):
        read()
    each, whole = read(frames="each"), read((1, 3, 4, 6), frames="volume")

    assert each.whole[:, 0] == pytest.approx(frames() / 65535, abs=1e-6)
    assert np.array_equal(each.whole[:, 0], whole.whole[0, 0])
    assert each.patients.tolist() == [0, 0, 0]
    assert read(frames="each", patient="record").names.tolist() == [f"a.dcm#{n}" for n in (1, 2, 3)]


def series(folder: Path, places: list[float], **tags: Any) -> None:  # noqa: ANN401
    """Slices in the order of their files, each `places` mm up."""
    for number, place in enumerate(places):
        values = {
            "ImagePositionPatient": [0, 0, place],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            **tags,
        }
        pixels = np.full((4, 6), round(100 * place), dtype=np.uint16)
        save(made(pixels, **values), folder / f"{number}.dcm")


def test_slices_are_sorted_by_where_they_lie(read: Read, tmp_path: Path) -> None:
    series(tmp_path / "d" / "x", [5, 0, 10, 2.5, 7.5])
    series(tmp_path / "d" / "y", [0, 5, 10, 15, 20], SeriesInstanceUID="1.2.4", PatientID="p2")

    raw = read((1, 5, 4, 6))

    assert raw.names.tolist() == ["p1", "p2"]
    found = np.round(raw.whole[:, 0, :, 0, 0] * 65535)
    assert found.tolist() == [[0, 250, 500, 750, 1000], [0, 500, 1000, 1500, 2000]]


@pytest.mark.parametrize(
    ("places", "says"), [([0, 5, 5, 10], "same place"), ([0, 5, 10, 25], "one is missing")]
)
def test_a_series_with_a_gap_or_twice_a_slice_is_named(
    places: list[float], says: str, read: Read, tmp_path: Path
) -> None:
    series(tmp_path / "d", places)

    with pytest.raises(DataError, match=says) as caught:
        read((1, 4, 4, 6))
    assert caught.value.where.endswith(".dcm")


def test_a_series_of_two_patients_is_named_without_their_names(read: Read, tmp_path: Path) -> None:
    series(tmp_path / "d" / "x", [0, 5], PatientID="SECRET1")
    series(tmp_path / "d" / "y", [10, 15], PatientID="SECRET2")

    with pytest.raises(DataError, match="several patients") as caught:
        read((1, 4, 4, 6))
    assert "SECRET" not in caught.value.line()


def test_a_volume_may_be_fitted(read: Read, tmp_path: Path) -> None:
    series(tmp_path / "d", [0, 5, 10, 15])

    with pytest.raises(DataError, match="4 deep, 6 wide and 4 high"):
        read((1, 2, 2, 3))
    raw = read((1, 2, 2, 3), data={"resize": "fit"})

    assert raw.whole[0, 0, 0].mean() < raw.whole[0, 0, 1].mean()


# --- Labels and patients --------------------------------------------------------------------------


def test_a_table_finds_files_by_path_or_number(read: Read, tmp_path: Path) -> None:
    first = made(ramp(seed=1), PatientID="a")
    save(first, tmp_path / "d" / "x" / "1.dcm")
    save(made(ramp(seed=2), PatientID="b"), tmp_path / "d" / "x" / "2")
    (tmp_path / "d" / "t.csv").write_text(
        f"file,label,who,part\nx/2,1,n,test\n{first.SOPInstanceUID},benign,m,train\n",
        encoding="utf-8",
    )
    known: dict[str, Any] = {"labels": "t.csv", "task": BINARY, "data": {"label": "label"}}

    by_tag, by_column = read(**known), read(**known, patient="who")

    assert by_tag.whole_labels.tolist() == [1, 0]
    assert by_tag.names.tolist() == ["b", "a"]
    assert by_column.names.tolist() == ["n", "m"]
    assert by_tag.parts is not None
    assert by_tag.parts.tolist() == ["test", "train"]
    assert by_tag.whole[1, 0] == pytest.approx(ramp(seed=1) / 65535, abs=1e-6)
    with pytest.raises(DataError, match="neither a DICOM keyword nor a column"):
        read(**known, patient="whom")


def test_without_a_table_the_folder_is_the_class(read: Read, tmp_path: Path) -> None:
    save(made(ramp(), PatientID="a"), tmp_path / "d" / "malignant" / "deep" / "1.dcm")
    save(made(ramp(), PatientID="b"), tmp_path / "d" / "benign" / "2.dcm")

    assert read(task=BINARY, data={"label": "label"}).whole_labels.tolist() == [0, 1]


def test_a_row_without_a_file_is_named(read: Read, tmp_path: Path) -> None:
    save(made(ramp()), tmp_path / "d" / "1.dcm")
    (tmp_path / "d" / "t.csv").write_text("file,label\n2.dcm,1\n", encoding="utf-8")

    with pytest.raises(DataError, match="no such DICOM file") as caught:
        read(labels="t.csv", task=BINARY, data={"label": "label"})
    assert caught.value.where.endswith("2.dcm")


def test_an_image_of_nobody_is_named(read: Read, tmp_path: Path) -> None:
    save(made(ramp(), PatientID=""), tmp_path / "d" / "1.dcm")

    with pytest.raises(DataError, match="names no patient"):
        read()
    assert read(patient="record").names.tolist() == ["1.dcm"]


# --- Files that are no image ----------------------------------------------------------------------


@shared
def test_all_of_pydicoms_files_are_read_or_named(read: Read) -> None:
    """12 files: six images that decode here, and six that are named."""
    faults = ListedFaults()

    raw = read((1, 64, 64), folder=SHARED, faults=faults, data={"resize": "fit"})

    assert len(raw) == 6
    lines = {Path(error.where).stem: error.line() for _, error in faults.found}
    assert set(lines) == {
        *("badVR", "no_meta", "reportsi", "rtplan", "waveform_ecg", "JPEG-lossy"),
    }
    assert "no DICOM header" in lines["no_meta"]
    assert "RT Plan Storage" in lines["rtplan"]
    assert "Waveform" in lines["waveform_ecg"]
    assert "pylibjpeg-libjpeg" in lines["JPEG-lossy"]
    assert "JPEG Extended" in lines["JPEG-lossy"]
    assert raw.dropped == 6


@shared
def test_the_study_may_allow_to_leave_them_out_and_each_is_named(
    read: Read, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="fedward.client"):
        raw = read((1, 64, 64), folder=SHARED, data={"resize": "fit", "unreadable": "drop"})

    assert (len(raw), raw.dropped) == (6, 6)
    assert sum("left out: " in line for line in caplog.messages) == 6


def test_another_size_is_never_left_out(read: Read, tmp_path: Path) -> None:
    save(made(ramp(8, 8)), tmp_path / "d" / "1.dcm")

    with pytest.raises(DataError, match="8 wide and 8 high"):
        read(data={"unreadable": "drop"})


@shared
def test_a_hospital_file_alone_is_enough(study_with: StudyWith, tmp_path: Path) -> None:
    for name in ("CT_small", "MR_small", "examples_overlay"):
        (tmp_path / "scans").mkdir(exist_ok=True)
        (tmp_path / "scans" / name).write_bytes((SHARED / f"{name}.dcm").read_bytes())
    (tmp_path / "scans" / "labels.csv").write_text(
        "file,finding,part\nCT_small,1,train\nMR_small,0,test\nexamples_overlay,0,validation\n",
        encoding="utf-8",
    )
    values = {
        "name": "north",
        "data": {
            "format": "dicom",
            "path": "scans",
            "labels": "labels.csv",
            "columns_are": {"tumour": "finding"},
        },
    }
    (tmp_path / "hospital.toml").write_bytes(tomli_w.dumps(values).encode())
    data = {"shape": [1, 32, 32], "resize": "fit", "label": "tumour", "parts": {"by": "file"}}
    study = study_with({"data": {"kind": "images", **data}})

    parts = read_parts(read_hospital(tmp_path / "hospital.toml"), study, tmp_path)

    assert {part: records.whole_labels.tolist() for part, records in parts.items()} == {
        "train": [1],
        "validation": [0],
        "test": [0],
    }
    assert parts["train"].whole.shape == (1, 1, 32, 32)


# --- Nobody's name leaves, and hostile files do no harm -------------------------------------------


@shared
@pytest.mark.filterwarnings("default")
def test_no_value_of_a_tag_is_in_what_is_told(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """pydicom warns of bad values by quoting them."""
    name = b"CompressedSamples^CT1"
    content = (SHARED / "CT_small.dcm").read_bytes()
    assert name in content
    (tmp_path / "d").mkdir()
    bad = content.replace(b"20040119", b"SECRET^A").replace(name, b"SECRETNAME^VERYSECRE")
    (tmp_path / "d" / "a.dcm").write_bytes(bad.replace(b"1.3.6.1.4.1.5962", b"SECRET.UID.VALUE"))
    (tmp_path / "d" / "b.dcm").write_bytes(bad[:3000])
    faults = ListedFaults()

    with caplog.at_level(logging.DEBUG):
        raw = read((1, 128, 128), faults=faults)

    out, err = capfd.readouterr()
    told = [e.line() for _, e in faults.found] + [t for _, t in raw.facts]
    assert len(faults.found) >= 1
    assert "SECRET" not in out + err + caplog.text + "".join(told)


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    """A file cut short, or with some bytes changed."""
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        place = draw(st.integers(0, min(len(content), 1500) - 1))
        changed[place] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.parametrize("packed", [False, True])
def test_spoilt_files_are_read_or_named(
    packed: bool, tmp_path: Path, study_with: StudyWith
) -> None:
    dataset = made(ramp(), ImagePositionPatient=[0, 0, 1])
    if packed:
        dataset.compress(RLELossless)
    path = save(dataset, tmp_path / "d" / "a.dcm")
    content = path.read_bytes()
    study = study_with({"task": {"kind": "reconstruction"}, "data": {**PLAIN, "shape": [1, 4, 6]}})

    @given(spoilt(content))
    def spoil(changed: bytes) -> None:
        path.write_bytes(changed)
        faults = ListedFaults()
        raw = read_all(DicomSource(format="dicom", path="d"), study, tmp_path, faults)
        assert raw.whole.shape == (1 - len(faults.rows), 1, 4, 6)
        assert all(error.where == str(path) for _, error in faults.found)

    spoil()


HUGE = """
import resource, sys
from pathlib import Path
from fedward.client.data.dicom_files import heads_of
from fedward.client.data.dicom_pixels import PixelReader
from fedward.study.errors import DataError
from fedward.study.image_data import ImageData

data = ImageData(kind="images", shape=(1, 64, 64), resize="fit")
(head,) = heads_of(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
try:
    if head.fault: raise head.fault
    PixelReader(data).read(head, 0)
except DataError as error:
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024, error.line())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "tags",
    [
        {"Rows": 65535, "Columns": 65535},
        {"Rows": 8000, "Columns": 8000},
        {"NumberOfFrames": 10**9},
        {"NumberOfFrames": -1},
    ],
)
def test_what_a_head_claims_is_not_believed(tags: dict[str, int], tmp_path: Path) -> None:
    dataset = made(ramp())
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    path = save(dataset, tmp_path / "d" / "a.dcm")

    done = subprocess.run(
        [sys.executable, "-c", HUGE, str(path.parent)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    grown, line = done.stdout.split(maxsplit=1)
    assert "a.dcm: " in line
    assert int(grown) < 64  # MiB


def test_a_length_beyond_the_file_makes_no_room(tmp_path: Path) -> None:
    path = save(made(ramp()), tmp_path / "d" / "a.dcm")
    content = path.read_bytes()
    at = content.index(struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OW", 0))
    path.write_bytes(content[: at + 8] + struct.pack("<I", 2**32 - 2) + content[at + 12 :])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    (head,) = heads_of(path.parent)

    assert head.fault is None or head.fault.where == str(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024
