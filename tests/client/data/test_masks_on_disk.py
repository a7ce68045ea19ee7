"""Masks that are too many for memory: the same ones, read when they are asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedward.client.data import archives, decoded, image_folders
from fedward.client.data.context import Context
from fedward.client.data.faults import STRICT, Faults, ListedFaults
from fedward.client.data.images import images_of, masks
from fedward.client.data.named_files import NamedFile
from fedward.client.data.parts import divide
from fedward.client.data.reading import read_with
from fedward.client.data.sources import FolderSource, NpzSource
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError
from fedward.study.study import Study, parse_study
from fedward.study.task import SegmentationTask

MIB = 2**20
SOURCES: dict[str, NpzSource | FolderSource] = {
    "npz": NpzSource(format="npz", path="a.npz", patient="record"),
    "folder": FolderSource(format="folder", path="f", patient="record"),
}


def study(size: tuple[int, int] = (6, 8), **data: object) -> Study:
    return parse_study(
        {
            "study": {"name": "masks"},
            "task": {"kind": "segmentation", "classes": ["none", "lung"]},
            "model": {"name": "any"},
            "data": {"kind": "images", "shape": [1, *size], **data},
            "training": {"rounds": 1, "local_epochs": 1, "batch_size": 4, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images with masks, as an archive and as files."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 6, 8)).astype(np.uint8)
    masks = rng.integers(0, 2, (20, 6, 8)).astype(np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=images, masks=masks)
    for kind, some in (("images", images), ("masks", masks)):
        (tmp_path / "f" / kind).mkdir(parents=True)
        for number, pixels in enumerate(some):
            Image.fromarray(pixels).save(tmp_path / "f" / kind / f"{number:02}.png")
    return tmp_path


@pytest.fixture
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "IN_MEMORY", 0)
    monkeypatch.setattr(archives, "_HELD", 0)


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("room", [2**30, 0], ids=["kept", "no room"])
def test_masks_on_disk_are_those_of_the_files(folder: Path, kind: str, room: int) -> None:
    with np.load(folder / "a.npz") as stored:
        expected = stored["masks"]
    context = Context(folder, cache=folder / "cache", cache_bytes=room)
    for _ in range(2):  # decoded, then kept
        raw = read_with(SOURCES[kind], study(), context)
        assert isinstance(raw.labels, Stored)
        assert raw.labels.dtype == np.uint8
        np.testing.assert_array_equal(raw.whole_labels, expected)

    records = divide(raw, study().data.parts, where="here")["train"]
    place = {
        image.numpy().tobytes(): number for number, image in enumerate(torch.as_tensor(raw.whole))
    }
    for inputs, labels in (records.batch(torch.tensor([3, 0])), *records.first(9).batches(4)):
        for image, mask in zip(inputs, labels, strict=True):
            np.testing.assert_array_equal(mask, expected[place[image.numpy().tobytes()]])


@pytest.mark.usefixtures("all_large")
@pytest.mark.parametrize("kind", SOURCES)
def test_another_meaning_of_a_masks_values_is_not_what_was_kept(folder: Path, kind: str) -> None:
    context = Context(folder, cache=folder / "cache")
    one = read_with(SOURCES[kind], study(), context).whole_labels
    turned = study(class_values=[[1], [0]])
    np.testing.assert_array_equal(read_with(SOURCES[kind], turned, context).whole_labels, 1 - one)


@pytest.mark.usefixtures("all_large")
def test_a_changed_mask_is_decoded_anew_and_a_bad_one_is_told_each_time(folder: Path) -> None:
    context = Context(folder, cache=folder / "cache")
    read_with(SOURCES["folder"], study(), context)
    path = folder / "f" / "masks" / "07.png"
    Image.fromarray(np.full((6, 8), 1, np.uint8)).save(path)
    assert (read_with(SOURCES["folder"], study(), context).whole_labels[7] == 1).all()
    Image.fromarray(np.full((6, 8), 9, np.uint8)).save(path)
    for _ in range(2):
        faults = ListedFaults()
        told = Context(folder, faults, folder / "cache")
        assert len(read_with(SOURCES["folder"], study(), told)) == 19
        ((row, error),) = faults.found
        assert row == 7
        assert error.where == str(path)


def exported_anew_when(
    monkeypatch: pytest.MonkeyPatch, opened: Path, path: Path, pixels: int
) -> None:
    """When the file is opened for the first time, the one of that path is replaced."""
    really = image_folders._opened
    left = [opened]

    def opening(file: NamedFile, *rest: Any) -> Any:  # noqa: ANN401 - what it gives
        if file.path in left:
            left.remove(file.path)
            Image.fromarray(np.full((6, 8), pixels, np.uint8)).save(path)
            os.utime(path, (1, 1))
        return really(file, *rest)

    monkeypatch.setattr(image_folders, "_opened", opening)


@pytest.mark.parametrize("large", [False, True])
def test_that_a_faulty_image_has_no_mask_is_not_kept_for_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """An image is exported anew while data is checked: in training it has its mask."""
    if large:
        monkeypatch.setattr(decoded, "IN_MEMORY", 0)
    with np.load(folder / "a.npz") as stored:
        expected = stored["masks"]
    path = folder / "f" / "images" / "07.png"
    exported_anew_when(monkeypatch, path, path, 9)
    faults = ListedFaults()
    assert (
        len(read_with(SOURCES["folder"], study(), Context(folder, faults, folder / "cache"))) < 20
    )
    assert [row for row, _ in faults.found] == [7]

    raw = read_with(SOURCES["folder"], study(), Context(folder, cache=folder / "cache"))
    np.testing.assert_array_equal(raw.whole_labels, expected)


def test_whether_an_image_is_faulty_is_told_of_in_the_key_of_its_mask(folder: Path) -> None:
    """Even where both files look the same as then: only this reader told of the image's fault."""

    def read(faults: Faults) -> Any:  # noqa: ANN401 - an array
        context = Context(folder, faults, folder / "cache")
        task = study().task
        assert isinstance(task, SegmentationTask)
        data = images_of(study().data, "here")
        ones = np.ones((6, 8), np.uint8)
        return masks(lambda _: ones, ["a", "b"], data, task, context)

    faults = ListedFaults()
    faults.add(DataError("is odd", todo="mend it"), 1)
    for _ in range(2):
        assert read(faults).any(axis=(1, 2)).tolist() == [True, False]
        assert read(STRICT).all()


def test_a_mask_is_of_the_image_that_was_decoded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image is exported anew between its decoding and its mask's."""
    path = folder / "f" / "images" / "07.png"
    exported_anew_when(monkeypatch, folder / "f" / "masks" / "00.png", path, 9)
    with pytest.raises(DataError, match="was changed while it was read") as caught:
        read_with(SOURCES["folder"], study(), Context(folder, cache=folder / "cache"))
    assert caught.value.where == str(path)


CHILD = """
import json, re, sys
from pathlib import Path
from fedward.client.data import decoded
from fedward.client.data.context import Context
from fedward.client.data.reading import read_with
from fedward.client.data.sources import NpzSource
from fedward.study.study import parse_study

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
study = parse_study(json.loads((folder / "study.json").read_text()))
decoded.IN_MEMORY = 0
context = Context(folder, cache=folder / "cache")
def read(name):
    return read_with(NpzSource(format="npz", path=name, patient="record"), study, context)
few = read("little.npz").labels
before = peak()
found = read("a.npz")
grown = peak() - before  # before the system maps what is on disk, which it takes back at will
ones = sum(int(piece.sum()) for piece in found.labels.split(16))
print(json.dumps({"grown": grown, "records": len(found), "ones": ones}))
"""


@pytest.mark.slow
def test_many_masks_need_little_memory(tmp_path: Path) -> None:
    """160 MiB of masks: read to the end with a peak that is far below."""
    size, count = (256, 512), 1280
    for name, many in (("little.npz", 4), ("a.npz", count)):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_STORED) as file:
            for key in ("images", "masks"):
                with file.open(f"{key}.npy", "w", force_zip64=True) as entry:
                    head = {"descr": "|u1", "fortran_order": False, "shape": (many, *size)}
                    np.lib.format.write_array_header_1_0(entry, head)
                    for row in range(many):
                        entry.write(np.full(size, row % 2, np.uint8).tobytes())
    contract = study(size).model_dump(mode="json", exclude_none=True)
    (tmp_path / "study.json").write_text(json.dumps(contract))
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert not ran.returncode, ran.stderr
    told = json.loads(ran.stdout)
    assert (told["records"], told["ones"]) == (count, count // 2 * size[0] * size[1])
    assert told["grown"] < 100 * MIB, told["grown"] / MIB
