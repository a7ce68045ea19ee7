"""NIfTI: volumes that the tests write, turned, fitted, masked, and hostile ones."""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedward.client.data import nifti
from fedward.client.data.context import Context
from fedward.client.data.faults import STRICT, Faults, ListedFaults
from fedward.client.data.named_files import NamedFile
from fedward.client.data.reading import read_all, read_parts, read_with
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import NiftiSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
PLAIN: dict[str, Any] = {"kind": "images", "center": 0.0, "scale": 1.0, "label": []}
ORGANS = {"kind": "segmentation", "classes": ["none", "liver", "tumour"]}


def write(
    path: Path,
    values: NDArray[Any],
    *,
    axes: str = "RAS",
    scaling: tuple[float, float] | None = None,
) -> Path:
    """Values by x, y, z as they are in RAS, stored along other axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 3.0, 1.0]))
    wanted = nibabel.orientations.axcodes2ornt(axes)
    there = nibabel.orientations.io_orientation(image.affine)
    turned = image.as_reoriented(nibabel.orientations.ornt_transform(there, wanted))
    if scaling is not None:
        turned.header.set_slope_inter(*scaling)
    nibabel.save(turned, path)
    return path


def voxels(*shape: int, kind: type = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(kind)


@pytest.fixture
def read(tmp_path: Path, study_with: StudyWith) -> Callable[..., RawRecords]:
    """Reads the folder `d`."""

    def reading(
        shape: tuple[int, ...],
        faults: ListedFaults | None = None,
        *,
        task: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **source: Any,  # noqa: ANN401
    ) -> RawRecords:
        values = {**PLAIN, "shape": list(shape), **(data or {})}
        study = study_with({"task": task or {"kind": "reconstruction"}, "data": values})
        where = NiftiSource(format="nifti", path="d", **source)
        if faults is None:
            return read_all(where, study, tmp_path)
        return read_all(where, study, tmp_path, faults)

    return reading


Read = Callable[..., RawRecords]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SAR", "PIL"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_however_it_lies_it_is_turned_to_the_same(
    axes: str, suffix: str, read: Read, tmp_path: Path
) -> None:
    values = voxels(5, 4, 3)
    write(tmp_path / "d" / f"a.{suffix}", values, axes=axes)

    raw = read((1, 3, 4, 5))

    assert raw.whole[0, 0] == pytest.approx(values.T / 255, abs=1e-6)
    assert raw.names.tolist() == [f"a.{suffix}"]


def test_channels_stand_first(read: Read, tmp_path: Path) -> None:
    values = voxels(5, 4, 3, 2)
    write(tmp_path / "d" / "a.nii", values)

    assert read((2, 3, 4, 5)).whole[0] == pytest.approx(values.T / 255, abs=1e-6)
    with pytest.raises(DataError, match="has 2 channels"):
        read((1, 3, 4, 5))


def test_a_window_is_in_the_files_own_unit(read: Read, tmp_path: Path) -> None:
    stored = voxels(5, 4, 3, kind=np.int16)
    write(tmp_path / "d" / "a.nii.gz", stored, scaling=(2.0, -100.0))
    path = tmp_path / "d" / "a.nii.gz"
    units = np.asanyarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]

    raw = read((1, 3, 4, 5), data={"window": [50.0, 100.0]})

    assert raw.whole[0, 0] == pytest.approx(np.clip(units.T / 100, 0, 1), abs=1e-6)
    assert 0 < raw.whole.mean() < 1


def test_a_volume_may_be_fitted_or_is_refused(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.nii", np.full((8, 4, 4), 255, dtype=np.uint8))

    with pytest.raises(DataError, match="4 deep, 8 wide and 4 high"):
        read((1, 4, 4, 4))
    (small,) = read((1, 4, 4, 4), data={"resize": "fit"}).whole[:, 0]

    assert small.shape == (4, 4, 4)
    assert np.unique(small).tolist() == [0, 1]
    assert small[1:3, 1:3].min() == 1  # half the size, and padding around it
    assert small[0].max() == small[:, 3].max() == 0


def test_one_layer_is_a_flat_image(read: Read, tmp_path: Path) -> None:
    values = voxels(5, 4, 1)
    write(tmp_path / "d" / "a.nii", values)

    assert read((1, 4, 5)).whole[0, 0] == pytest.approx(values[:, :, 0].T / 255, abs=1e-6)


def test_masks_are_turned_and_fitted_like_their_images(read: Read, tmp_path: Path) -> None:
    values, mask = voxels(6, 4, 2), voxels(6, 4, 2, seed=1) % 3
    write(tmp_path / "d" / "a.nii.gz", values)
    write(tmp_path / "d" / "a-mask.nii.gz", mask, axes="LPS")
    (tmp_path / "d" / "t.csv").write_text(
        "file,mask,patient\na.nii.gz,a-mask.nii.gz,p\n", encoding="utf-8"
    )
    known: dict[str, Any] = {"labels": "t.csv", "patient": "patient", "task": ORGANS}

    whole = read((1, 2, 4, 6), data={"label": "mask"}, **known)
    small = read((1, 1, 2, 3), data={"label": "mask", "resize": "fit"}, **known)

    assert whole.labels.dtype == np.uint8
    assert np.array_equal(whole.whole_labels[0], mask.T)
    assert whole.names.tolist() == ["p"]
    assert small.labels.shape == (1, 1, 2, 3)
    assert set(np.unique(small.whole_labels)) <= {0, 1, 2}


def test_a_mask_that_does_not_fit_is_named(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.nii", voxels(6, 4, 2))
    (tmp_path / "d" / "t.csv").write_text("file,label\na.nii,m.nii\n", encoding="utf-8")
    known: dict[str, Any] = {"labels": "t.csv", "task": ORGANS, "data": {"label": "label"}}
    path = tmp_path / "d" / "m.nii"

    with pytest.raises(DataError, match="no such file"):
        read((1, 2, 4, 6), **known)
    write(path, voxels(6, 4, 3) % 3)
    with pytest.raises(DataError, match="for an image of shape"):
        read((1, 2, 4, 6), **known)
    write(path, np.full((6, 4, 2), 7, dtype=np.uint8))
    with pytest.raises(DataError, match="'7' in a mask is none of the classes"):
        read((1, 2, 4, 6), **known)
    nibabel.save(nibabel.Nifti1Image(voxels(6, 4, 2) % 3, np.eye(4)), path)
    with pytest.raises(DataError, match="lies elsewhere") as caught:
        read((1, 2, 4, 6), **known)
    assert caught.value.where == str(path)


def test_a_hospital_file_alone_is_enough(study_with: StudyWith, tmp_path: Path) -> None:
    lines = ["file,grade,who,part"]
    for number, part in enumerate(("train", "train", "validation", "test")):
        write(tmp_path / "mri" / f"{number}.nii.gz", voxels(5, 4, 3, seed=number))
        lines.append(f"{number}.nii.gz,{number % 2},p{number},{part}")
    (tmp_path / "mri" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    source = {"format": "nifti", "path": "mri", "labels": "labels.csv", "patient": "who"}
    values = {"name": "north", "data": {**source, "columns_are": {"label": "grade"}}}
    (tmp_path / "hospital.toml").write_bytes(tomli_w.dumps(values).encode())
    study = study_with({"data": {"kind": "images", "shape": [1, 3, 4, 5], "parts": {"by": "file"}}})

    parts = read_parts(read_hospital(tmp_path / "hospital.toml"), study, tmp_path)

    assert parts["train"].whole_labels.tolist() == [0, 1]
    assert parts["test"].whole_labels.tolist() == [1]
    assert len(parts["validation"]) == 1


# --- Kept decoded ---------------------------------------------------------------------------------


def exported_anew_when(monkeypatch: pytest.MonkeyPatch, opened: Path, path: Path) -> None:
    """When the first file is opened for the first time, the other is replaced."""
    really = nifti._volume
    left = [opened]

    def opening(file: NamedFile, *rest: Any) -> Any:  # noqa: ANN401 - what it gives
        if file.path in left:
            left.remove(file.path)
            write(path, voxels(5, 4, 3, seed=9) % 2)
            os.utime(path, (1, 1))
        return really(file, *rest)

    monkeypatch.setattr(nifti, "_volume", opening)


@pytest.fixture
def organs(tmp_path: Path, study_with: StudyWith) -> Callable[[Faults], RawRecords]:
    """Reads two volumes with masks, and keeps them."""
    lines = ["file,label"]
    for name in "ab":
        write(tmp_path / "d" / f"{name}.nii", voxels(5, 4, 3))
        write(tmp_path / "d" / f"{name}-mask.nii", voxels(5, 4, 3, seed=1) % 2)
        lines.append(f"{name}.nii,{name}-mask.nii")
    (tmp_path / "d" / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    values = {**PLAIN, "shape": [1, 3, 4, 5], "label": "label"}
    study = study_with({"task": ORGANS, "data": values})
    source = NiftiSource(format="nifti", path="d", labels="t.csv")
    return lambda faults: read_with(source, study, Context(tmp_path, faults, tmp_path / "cache"))


Organs = Callable[[Faults], RawRecords]


@pytest.mark.parametrize(
    ("opened", "changed"),
    [("a.nii", "b.nii"), ("a-mask.nii", "b-mask.nii"), ("a-mask.nii", "b.nii")],
)
def test_a_file_that_is_changed_while_it_is_read_is_named(
    opened: str, changed: str, organs: Organs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor are the mask and the image of two exports taken for one record."""
    path = tmp_path / "d" / changed
    exported_anew_when(monkeypatch, tmp_path / "d" / opened, path)
    with pytest.raises(DataError, match="was changed while it was read") as caught:
        organs(STRICT)
    assert caught.value.where == str(path)

    raw = organs(STRICT)
    new = voxels(5, 4, 3, seed=9) % 2
    old_image, old_mask = voxels(5, 4, 3), voxels(5, 4, 3, seed=1) % 2
    image, mask = (old_image, new) if "mask" in changed else (new, old_mask)
    assert raw.whole[1, 0] == pytest.approx(image.T / 255, abs=1e-6)
    np.testing.assert_array_equal(raw.whole_labels[1], mask.T)


@pytest.mark.parametrize("name", ["b.nii", "b-mask.nii"])
def test_a_file_that_may_be_read_now_is_read(
    name: str, organs: Organs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Who is allowed to read a file changes neither its size nor its time."""
    path = tmp_path / "d" / name
    with monkeypatch.context() as forbidden:
        really, may = io.FileIO, os.access

        def opening(file: str, *rest: Any, **named: Any) -> io.FileIO:  # noqa: ANN401 - what it is given
            if file == str(path):
                raise PermissionError(13, "Permission denied")
            return really(file, *rest, **named)

        forbidden.setattr(io, "FileIO", opening)
        forbidden.setattr(os, "access", lambda at, *mode: str(at) != str(path) and may(at, *mode))
        faults = ListedFaults()
        assert len(organs(faults)) == 1
        assert [error.where for _, error in faults.found] == [str(path)]

    assert len(organs(STRICT)) == 2


# --- Hostile files --------------------------------------------------------------------------------


@st.composite
def spoilt(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.booleans()):
        return content[: draw(st.integers(0, len(content)))]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 8))):
        changed[draw(st.integers(0, min(len(content), 352) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@pytest.mark.parametrize("packed", [False, True])
def test_spoilt_files_are_read_or_named(
    packed: bool, tmp_path: Path, study_with: StudyWith
) -> None:
    content = write(tmp_path / "a.nii", voxels(5, 4, 3)).read_bytes()
    path = tmp_path / "d" / ("a.nii.gz" if packed else "a.nii")
    path.parent.mkdir()
    study = study_with(
        {"task": {"kind": "reconstruction"}, "data": {**PLAIN, "shape": [1, 3, 4, 5]}}
    )

    @given(spoilt(content))
    def spoil(changed: bytes) -> None:
        path.write_bytes(gzip.compress(changed, 1) if packed else changed)
        faults = ListedFaults()
        raw = read_all(NiftiSource(format="nifti", path="d"), study, tmp_path, faults)
        assert raw.whole.shape == (1 - len(faults.rows), 1, 3, 4, 5)
        assert all(error.where == str(path) for _, error in faults.found)

    spoil()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "claims .*30000"),
        ({"dim": [3, 600, 600, 600, 1, 1, 1, 1]}, "claims 216000352 bytes and has"),
        ({"dim": [3, -5, 4, 3, 1, 1, 1, 1]}, "claims"),
        ({"vox_offset": 1e12}, "claims to begin far behind"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_a_head_claims_is_not_believed(
    change: dict[str, Any], says: str, packed: bool, read: Read, tmp_path: Path
) -> None:
    image = write(tmp_path / "a.nii", voxels(5, 4, 3)).read_bytes()
    header = nibabel.Nifti1Header(image[:348], check=False)
    for key, value in change.items():
        header[key] = value
    path = tmp_path / "d" / ("a.nii.gz" if packed else "a.nii")
    path.parent.mkdir()
    content = header.binaryblock + image[348:]
    path.write_bytes(gzip.compress(content) if packed else content)
    faults = ListedFaults()

    with pytest.raises(DataError, match=says) as caught:
        read((1, 3, 4, 5))
    assert caught.value.where == str(path)
    assert len(read((1, 3, 4, 5), faults)) == 0
    assert len(faults.found) == 1


def test_a_name_that_no_file_can_have_is_named(read: Read, tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.nii", voxels(5, 4, 3))
    (tmp_path / "d" / "t.csv").write_text("file,label\na.nii,0\na\0.nii,0\n", encoding="utf-8")
    faults = ListedFaults()

    assert len(read((1, 3, 4, 5), faults, labels="t.csv")) == 1
    assert [row for row, _ in faults.found] == [1]


def test_a_bomb_is_not_unfolded(read: Read, tmp_path: Path) -> None:
    """A GiB of zeros behind a good volume, in a MiB: no more is read than the head asks for."""
    image = write(tmp_path / "a.nii", voxels(5, 4, 3)).read_bytes()
    pack = zlib.compressobj(9, wbits=31)
    path = tmp_path / "d" / "a.nii.gz"
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(pack.compress(image))
        for _ in range(256):
            file.write(pack.compress(bytes(2**22)))
        file.write(pack.flush())
    assert path.stat().st_size < 2**21

    assert read((1, 3, 4, 5)).whole[0, 0] == pytest.approx(voxels(5, 4, 3).T / 255, abs=1e-6)
