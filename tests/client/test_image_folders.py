"""Folders of images: how they are read and kept decoded, and every broken one named."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fedward.client.data import decoded as decoding
from fedward.client.data.context import Context, LoggedProgress
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all, read_parts, read_with
from fedward.client.data.records import RawRecords, as_text
from fedward.client.data.sources import FolderSource
from fedward.client.data.stored import Stored
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from fedward.study.study import Study
from tests.client.small_images import COLOUR, GREY, pixels

StudyWith = Callable[[Mapping[str, object]], Study]


def save(path: Path, image: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def read_folder(
    folder: Path,
    study_with: StudyWith,
    data: dict[str, Any] | None = None,
    **source: Any,  # noqa: ANN401
) -> RawRecords:
    where = FolderSource(format="folder", path=folder.name, **source)
    return read_all(where, study_with({"data": data or GREY}), folder.parent)


@pytest.fixture
def by_class(tmp_path: Path) -> Path:
    """Five grey images, each in the folder of its class."""
    folder = tmp_path / "images"
    for number in range(5):
        kind = "malignant" if number % 2 else "benign"
        save(folder / kind / f"{number}.png", pixels(1, 4, 6, seed=number)[0])
    return folder


@pytest.fixture
def by_table(tmp_path: Path) -> Path:
    """Four grey images and a table that says what they are."""
    folder = tmp_path / "images"
    for number in range(4):
        save(folder / f"{number}.png", pixels(1, 4, 6, seed=number)[0])
    (folder / "labels.csv").write_text(
        "file,label,patient,part\n0.png,0,p,train\n1.png,1,q,test\n"
        "2.png,benign,p,train\n3.png,malignant,r,validation\n",
        encoding="utf-8",
    )
    return folder


def test_a_folder_a_class_is_read_in_sorted_order(by_class: Path, study_with: StudyWith) -> None:
    raw = read_folder(by_class, study_with)

    assert raw.whole_labels.tolist() == [0, 0, 0, 1, 1]
    expected = [pixels(1, 4, 6, seed=number) / 127.5 - 1 for number in (0, 2, 4, 1, 3)]
    assert raw.inputs == pytest.approx(np.stack(expected), abs=1e-6)
    assert len(np.unique(raw.patients)) == 5
    assert raw.parts is None


def test_an_image_that_is_a_patient_is_called_by_its_file(
    by_class: Path, study_with: StudyWith, tmp_path: Path
) -> None:
    """Not by its place, which every file before it would change; nor by where the folder lies."""
    before = read_folder(by_class, study_with)
    first = sorted(by_class.glob("*/*.*"))[0]
    first.unlink()
    moved = by_class.rename(tmp_path / "elsewhere")

    after = read_folder(moved, study_with)

    assert after.names.tolist() == before.names.tolist()[1:]


@pytest.mark.parametrize("kind", [str, bytes, int])
def test_patients_of_an_archive_are_called_by_their_text(kind: type) -> None:
    names = np.array([kind(1)] if kind is int else ["Zoë"] if kind is str else [b"Zo\xeb"])

    assert as_text(names).tolist() == (["1"] if kind is int else ["Zoë"])


def test_other_files_in_the_folder_are_left_alone(by_class: Path, study_with: StudyWith) -> None:
    (by_class / "benign" / "notes.txt").write_text("hello", encoding="utf-8")
    (by_class / "README").write_text("hello", encoding="utf-8")

    assert len(read_folder(by_class, study_with)) == 5


def test_a_table_of_labels_gives_class_patient_and_part(
    by_table: Path, study_with: StudyWith
) -> None:
    raw = read_folder(by_table, study_with, labels="labels.csv", patient="patient")

    assert raw.whole_labels.tolist() == [0, 1, 0, 1]
    assert raw.patients.tolist() == [0, 1, 0, 2]
    assert len(set(raw.names.tolist())) == 3
    assert raw.parts is not None
    assert raw.parts.tolist() == ["train", "test", "train", "validation"]
    assert raw.whole[3] == pytest.approx(pixels(1, 4, 6, seed=3) / 127.5 - 1, abs=1e-6)


def test_a_table_of_labels_may_come_from_excel(by_table: Path, study_with: StudyWith) -> None:
    table = by_table / "labels.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", b"\r\n"))

    assert len(read_folder(by_table, study_with, labels="labels.csv")) == 4


def test_colour_images_are_read_as_red_green_blue(tmp_path: Path, study_with: StudyWith) -> None:
    image = pixels(1, 4, 6, 3)[0]
    save(tmp_path / "images" / "benign" / "a.png", image)

    raw = read_folder(tmp_path / "images", study_with, COLOUR)

    assert raw.whole[0] == pytest.approx(np.moveaxis(image, -1, 0) / 127.5 - 1, abs=1e-6)


def test_sixteen_bit_images_keep_their_range(tmp_path: Path, study_with: StudyWith) -> None:
    """X-rays are often stored with 16 bits; cut to 8 they would be all white."""
    image = np.full((4, 6), 32896, dtype=np.uint16)
    image[0], image[1] = 0, 65535
    save(tmp_path / "images" / "benign" / "a.png", image)

    raw = read_folder(tmp_path / "images", study_with)

    assert raw.whole[0, 0, :3, 0] == pytest.approx([-1, 1, 0.004], abs=0.01)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0" + b"\0" * 20]
)
def test_an_image_that_cannot_be_read_is_named(
    content: bytes, by_class: Path, study_with: StudyWith
) -> None:
    (by_class / "benign" / "2.png").write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_folder(by_class, study_with)
    assert caught.value.where == str(by_class / "benign" / "2.png")


def test_a_cut_image_is_named(by_class: Path, study_with: StudyWith) -> None:
    file = by_class / "benign" / "2.png"
    file.write_bytes(file.read_bytes()[:50])

    with pytest.raises(DataError) as caught:
        read_folder(by_class, study_with)
    assert caught.value.where == str(file)


def test_an_image_that_claims_to_be_enormous_is_named(
    by_class: Path, study_with: StudyWith
) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    file = by_class / "benign" / "2.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)

    with pytest.raises(DataError) as caught:
        read_folder(by_class, study_with)
    assert caught.value.where == str(file)


def test_an_image_of_another_size_is_named(by_class: Path, study_with: StudyWith) -> None:
    save(by_class / "benign" / "2.png", pixels(1, 6, 4)[0])

    with pytest.raises(DataError, match="4 wide and 6 high") as caught:
        read_folder(by_class, study_with)
    assert caught.value.where == str(by_class / "benign" / "2.png")
    assert "6 wide and 4 high" in caught.value.todo


def test_an_image_that_is_not_there_is_named(by_table: Path, study_with: StudyWith) -> None:
    (by_table / "2.png").unlink()

    with pytest.raises(DataError, match="no such image") as caught:
        read_folder(by_table, study_with, labels="labels.csv")
    assert caught.value.where == str(by_table / "2.png")


def test_a_folder_that_names_no_class_is_named(by_class: Path, study_with: StudyWith) -> None:
    (by_class / "benign").rename(by_class / "other")

    with pytest.raises(DataError, match="'other'"):
        read_folder(by_class, study_with)


def test_an_empty_or_missing_folder_is_named(tmp_path: Path, study_with: StudyWith) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read_folder(tmp_path / "images", study_with)
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="no PNG or JPEG"):
        read_folder(tmp_path / "images", study_with)


@pytest.mark.parametrize(
    ("folder", "task"),
    [
        (".", "binary"),
        ("malignant", "binary"),
        ("images", "segmentation"),
        ("masks", "segmentation"),
    ],
)
def test_a_folder_that_may_not_be_looked_into_is_named(
    folder: str,
    task: str,
    by_class: Path,
    study_with: StudyWith,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if task == "segmentation":
        (by_class / "benign").rename(by_class / "images")
        (by_class / "malignant").rename(by_class / "masks")
    study = study_with({"data": GREY, "task": {"kind": task, "classes": ["benign", "malignant"]}})
    really, forbidden = os.listdir, str(by_class / folder)

    def listing(at: str | Path) -> list[str]:  # whoever tests may be allowed everything
        if str(at) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return really(at)

    monkeypatch.setattr(os, "listdir", listing)
    with pytest.raises(DataError, match="Permission denied") as caught:
        read_all(FolderSource(format="folder", path="images"), study, by_class.parent)
    assert caught.value.where == forbidden


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("file,kind\n0.png,0\n", "label"),
        ("image,label\n0.png,0\n", "file"),
        ("file,label\n0.png,0\n1.png,7\n", "'7'"),
        ("file,label\n0.png,0\n1.png\n", "labels.csv|record 1"),
        ("label,file\n0,0.png\n1\n", "labels.csv"),
        ("file,label\n0.png,0\n,1\n", "images"),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_named(
    table: str, says: str, by_table: Path, study_with: StudyWith
) -> None:
    (by_table / "labels.csv").write_text(table, encoding="utf-8")

    with pytest.raises(DataError, match=says):
        read_folder(by_table, study_with, labels="labels.csv")


def test_a_missing_table_or_column_of_patients_is_named(
    by_table: Path, study_with: StudyWith
) -> None:
    with pytest.raises(DataError, match=r"none\.csv"):
        read_folder(by_table, study_with, labels="none.csv")
    with pytest.raises(DataError, match="who"):
        read_folder(by_table, study_with, labels="labels.csv", patient="who")


# --- Kept decoded ---------------------------------------------------------------------------------


def test_a_hospital_decodes_its_images_once(
    by_table: Path,
    study_with: StudyWith,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Through hospital.toml alone: in memory, on disk, and decoded whenever they are read."""
    caplog.set_level("INFO", "fedward.client")
    study = study_with({"data": {**GREY, "parts": {"by": "file"}}})
    file = by_table.parent / "hospital.toml"
    text = (
        'name = "north"\nstate = "s"\n[data]\nformat = "folder"\npath = "images"\n'
        'labels = "labels.csv"\npatient = "patient"\n'
    )
    bare = read_all(
        FolderSource(format="folder", path="images", labels="labels.csv", patient="patient"),
        study,
        by_table.parent,
    )
    opened: list[object] = []
    really = Image.open

    def counted(path: Path) -> object:
        opened.append(path)
        return really(path)

    monkeypatch.setattr(Image, "open", counted)
    found = {}
    for kind, most, cache in (
        ("first", 2**30, ""),
        ("second", 2**30, ""),
        ("on disk", 0, ""),
        ("without room", 0, '[cache]\nfolder = "c"\ngib = 0\n'),
    ):
        file.write_text(text + cache, encoding="utf-8")
        monkeypatch.setattr(decoding, "IN_MEMORY", most)
        opened.clear()
        parts = read_parts(read_hospital(file), study, file.parent, LoggedProgress())
        found[kind] = (len(opened), parts["train"])

    assert [opens for opens, _ in found.values()] == [4, 0, 0, 4]
    train = bare.whole[[0, 2]]
    assert isinstance(found["second"][1].inputs, torch.Tensor)
    for kind, (_, records) in found.items():
        assert isinstance(records.inputs, Stored) == (kind in {"on disk", "without room"})
        assert np.array_equal(records.whole.numpy(), train)
        assert records.whole_labels.tolist() == [0, 0]
    assert len([e for e in caplog.records if "for the first time: 100 %" in e.getMessage()]) == 2
    save(by_table / "2.png", pixels(1, 4, 6, seed=9)[0])
    again = read_parts(read_hospital(file), study, file.parent)["train"].whole
    assert not np.array_equal(again.numpy(), train)
    held = found["without room"][1]
    with pytest.raises(DataError, match=r"2\.png: was changed while"):
        _ = held.whole


def test_what_is_wrong_with_images_is_remembered(
    by_class: Path, study_with: StudyWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    (by_class / "benign" / "4.png").write_bytes(b"no image")
    study, source = study_with({"data": GREY}), FolderSource(format="folder", path="images")
    told = []
    for _ in range(2):
        faults = ListedFaults()
        context = Context(by_class.parent, faults, by_class.parent / "cache")
        raw = read_with(source, study, context)
        told.append([(row, error.line()) for row, error in faults.found])
        assert len(raw) == 4
        assert raw.dropped == 1
        monkeypatch.setattr(Image, "open", lambda _: pytest.fail("decoded again"))

    assert told[0] == told[1]
    assert told[0][0][0] == 2
    assert "4.png: cannot be read as an image" in told[0][0][1]


def test_images_of_eight_and_sixteen_bits_are_kept_together(
    tmp_path: Path, study_with: StudyWith
) -> None:
    """Every value of eight bits is the very same number among deep images."""
    shape = (16, 16)
    every = np.arange(256, dtype=np.uint8).reshape(shape)
    save(tmp_path / "images" / "benign" / "0.png", every)
    save(tmp_path / "images" / "malignant" / "1.png", every[::-1].copy())
    study = study_with({"data": {"kind": "images", "shape": [1, *shape]}})
    source = FolderSource(format="folder", path="images")
    context = Context(tmp_path, cache=tmp_path / "cache")
    alone = read_with(source, study, context).whole

    save(tmp_path / "images" / "malignant" / "2.png", every.astype(np.uint16) * 200 + 7)
    for _ in range(2):
        found = read_with(source, study, context).whole
        assert found.dtype == np.float32
        assert np.array_equal(found[:2], alone)
        expected = (every * np.float64(200) + 7) / 65535 * 2 - 1
        assert found[2, 0] == pytest.approx(expected, abs=1e-6)


def test_a_scale_that_makes_infinities_is_refused(by_class: Path, study_with: StudyWith) -> None:
    with pytest.raises(DataError, match="not be finite"):
        read_folder(by_class, study_with, {**GREY, "scale": 1e-60})
