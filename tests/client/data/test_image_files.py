"""PNG folders and NumPy archives: sizes, windows, masks, several labels, and bombs."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedward.client.data.images import fitted
from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import FolderSource, NpzSource
from fedward.study.errors import DataError
from fedward.study.study import Study

StudyWith = Callable[[Mapping[str, object]], Study]
GREY: dict[str, Any] = {"kind": "images", "shape": [1, 4, 6], "center": 0.0, "scale": 1.0}
ORGANS = {"kind": "segmentation", "classes": ["none", "liver", "tumour"]}
FINDINGS = {"kind": "multilabel", "classes": ["nodule", "effusion", "fracture"]}


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, image: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture
def read(tmp_path: Path, study_with: StudyWith) -> Callable[..., RawRecords]:
    """Reads the archive `a.npz`, or the folder `d`."""

    def reading(
        task: Mapping[str, Any] | None = None,
        *,
        npz: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **source: Any,  # noqa: ANN401
    ) -> RawRecords:
        changes: dict[str, Any] = {"data": {**GREY, **(data or {})}}
        study = study_with({**changes, **({"task": task} if task else {})})
        if npz is None:
            return read_all(FolderSource(format="folder", path="d", **source), study, tmp_path)
        if npz:
            np.savez(tmp_path / "a.npz", **npz)
        return read_all(NpzSource(format="npz", path="a.npz", **source), study, tmp_path)

    return reading


Read = Callable[..., RawRecords]


def test_fitting_keeps_the_aspect_and_pads(read: Read, tmp_path: Path) -> None:
    save(tmp_path / "d" / "benign" / "a.png", np.full((12, 12), 255, dtype=np.uint8))

    (image,) = read(data={"resize": "fit"}).whole[0]

    assert image[:, 1:5].min() == 1  # 4 x 4 of 4 x 6, in the middle
    assert image[:, [0, 5]].max() == 0


@pytest.mark.parametrize("size", [(4, 6), (2, 3), (8, 12), (5, 5), (1, 40)])
def test_fitting_is_pillows_own_where_the_aspect_is_the_same(size: tuple[int, int]) -> None:
    values = pixels(1, 8, 12).astype(np.float32)

    found = fitted(values, size)

    factor = min(size[0] / 8, size[1] / 12)
    inner = (max(1, round(8 * factor)), max(1, round(12 * factor)))
    image = Image.fromarray(values[0]).resize(inner[::-1], Image.Resampling.BILINEAR)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    inside = found[0, top : top + inner[0], left : left + inner[1]]
    assert inside == pytest.approx(np.asarray(image))
    assert found.sum() == pytest.approx(inside.sum())


def test_a_window_is_in_the_files_unit(read: Read, tmp_path: Path) -> None:
    image = pixels(4, 6)
    save(tmp_path / "d" / "benign" / "a.png", image)
    window = {"window": [100.0, 50.0]}
    expected = np.clip((image - 75.0) / 50, 0, 1)

    assert read(data=window).whole[0, 0] == pytest.approx(expected, abs=1e-6)
    raw = read(npz={"images": image[None], "labels": [0]}, data=window)
    assert raw.whole[0, 0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("table", [False, True])
def test_masks_of_a_folder(table: bool, read: Read, tmp_path: Path) -> None:
    mask = pixels(4, 6, seed=2) % 3
    save(tmp_path / "d" / "images" / "a.jpg", pixels(4, 6))
    save(tmp_path / "d" / "masks" / "a.png", mask)
    (tmp_path / "d" / "t.csv").write_text(
        "file,outline\nimages/a.jpg,masks/a.png\n", encoding="utf-8"
    )

    known = {"labels": "t.csv", "columns_are": {"label": "outline"}} if table else {}
    raw = read(ORGANS, **known)

    assert raw.labels.dtype == np.uint8
    assert np.array_equal(raw.whole_labels[0], mask)


@pytest.mark.parametrize(("classes", "kept"), [(256, np.uint8), (257, np.int64)])
def test_a_mask_has_the_smallest_type_that_holds_its_classes(
    classes: int, kept: type, read: Read
) -> None:
    many = {"kind": "segmentation", "classes": [f"c{number}" for number in range(classes)]}
    masks = np.full((2, 4, 6), classes - 1, dtype=np.uint16)

    raw = read(many, npz={"images": pixels(2, 4, 6), "masks": masks})

    assert raw.labels.dtype == kept
    assert np.array_equal(raw.whole_labels, masks)


def test_masks_may_say_other_numbers_and_be_fitted(read: Read, tmp_path: Path) -> None:
    mask = np.zeros((8, 12), dtype=np.uint8)
    mask[:4] = 255
    save(tmp_path / "d" / "images" / "a.png", pixels(8, 12))
    save(tmp_path / "d" / "masks" / "a.png", mask)
    two = {"kind": "segmentation", "classes": ["none", "liver"]}

    raw = read(two, data={"class_values": [[0], [255]], "resize": "fit"})

    assert np.array_equal(raw.whole_labels[0], np.repeat([1, 1, 0, 0], 6).reshape(4, 6))
    with pytest.raises(DataError, match="'255' in a mask") as caught:
        read(two, data={"resize": "fit"})
    assert caught.value.where == str(tmp_path / "d" / "masks" / "a.png")


def test_a_mask_that_is_not_there_or_of_another_size_is_named(read: Read, tmp_path: Path) -> None:
    save(tmp_path / "d" / "images" / "a.png", pixels(4, 6))
    (tmp_path / "d" / "masks").mkdir()
    with pytest.raises(DataError, match="no such image") as caught:
        read(ORGANS)
    assert caught.value.where == str(tmp_path / "d" / "masks" / "a.png")
    save(tmp_path / "d" / "masks" / "a.png", pixels(8, 12))
    with pytest.raises(DataError, match=r"mask of shape \(8, 12\)"):
        read(ORGANS, data={"resize": "fit"})


def test_masks_of_an_archive(read: Read) -> None:
    masks = pixels(2, 4, 6, seed=3) % 3

    raw = read(ORGANS, npz={"images": pixels(2, 4, 6), "masks": masks})

    assert np.array_equal(raw.whole_labels, masks)


def test_several_findings(read: Read, tmp_path: Path) -> None:
    label = {"label": ["nodule", "effusion", "fracture"]}
    save(tmp_path / "d" / "a.png", pixels(4, 6))
    (tmp_path / "d" / "t.csv").write_text(
        "file,nodule,effusion,broken\na.png,1,no,true\n", encoding="utf-8"
    )

    folder = read(FINDINGS, data=label, labels="t.csv", columns_are={"fracture": "broken"})
    archive = read(
        FINDINGS, data=label, npz={"images": pixels(2, 4, 6), "labels": [[1, 0, 1], [0, 0, 1]]}
    )

    assert folder.whole_labels.tolist() == [[1, 0, 1]]
    assert archive.whole_labels.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_damaged_images_are_left_out_where_the_study_allows_it(read: Read, tmp_path: Path) -> None:
    save(tmp_path / "d" / "benign" / "a.png", pixels(4, 6))
    (tmp_path / "d" / "benign" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    raw = read(data={"unreadable": "drop"})

    assert (len(raw), raw.dropped, raw.names.tolist()) == (1, 1, ["benign/a.png"])


# --- Archives that claim what they do not hold ----------------------------------------------------


def claiming(shape: str) -> bytes:
    """A NumPy head that claims a shape, and nothing behind it."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": (1, 1)}
    )
    head = file.getvalue()
    changed = head.replace(b"(1, 1)", shape.encode())
    cut = changed.rstrip(b" \n")[: len(head) - 1]
    return cut.ljust(len(head) - 1) + b"\n"


@pytest.mark.parametrize("shape", ["(9999999999,)", "(100000, 100000, 10000)"])
def test_an_archive_that_claims_too_much_is_refused(shape: str, read: Read, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", claiming(shape))

    with pytest.raises(DataError, match=r"claims .* not what it holds") as caught:
        read(npz={})
    assert caught.value.where == str(tmp_path / "a.npz")


def test_a_zip_directory_that_claims_too_much_is_refused(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(2, 4, 6), labels=[0, 1])
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    path.write_bytes(content)

    with pytest.raises(DataError, match=r"claims 2147483648 bytes"):
        read(npz={})
