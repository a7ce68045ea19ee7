"""Archives of images: real ones, and every broken one named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import NpzSource
from fedward.study.errors import DataError
from fedward.study.study import Study
from tests.client.small_images import COLOUR, GREY, pixels

StudyWith = Callable[[Mapping[str, object]], Study]
Read = Callable[..., RawRecords]


@pytest.fixture
def read(tmp_path: Path, study_with: StudyWith) -> Read:
    """Reads the archive `a.npz`, after writing these entries to it."""

    def reading(
        entries: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
        **source: Any,  # noqa: ANN401
    ) -> RawRecords:
        if entries is not None:
            np.savez(tmp_path / "a.npz", **entries)
        archive = NpzSource(format="npz", path="a.npz", **source)
        return read_all(archive, study_with({"data": data or GREY}), tmp_path)

    return reading


def test_full_range_becomes_minus_one_to_one(read: Read) -> None:
    images = np.zeros((2, 4, 6), dtype=np.uint8)
    images[1] = 255

    raw = read({"images": images, "labels": [0, 1]})

    assert raw.inputs.dtype == np.float32
    assert raw.inputs.shape == (2, 1, 4, 6)
    assert np.unique(raw.whole[0]).tolist() == [-1]
    assert np.unique(raw.whole[1]).tolist() == [1]


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
def test_every_integer_type_is_scaled_by_its_own_range(kind: type, read: Read) -> None:
    images: NDArray[Any] = np.full((3, 4, 6), np.iinfo(kind).max, dtype=kind)

    raw = read({"images": images, "labels": [0, 1, 1]}, GREY | {"center": 0.0, "scale": 1.0})

    assert np.unique(raw.whole).tolist() == [1]


def test_floating_point_pixels_are_taken_as_they_are(read: Read) -> None:
    images = np.full((2, 4, 6), 0.3)

    raw = read({"images": images, "labels": [0, 1]}, GREY | {"center": 0.1, "scale": 0.4})

    assert raw.inputs == pytest.approx(0.5)


def test_the_parts_of_medmnist_archives_are_kept_apart(read: Read) -> None:
    counts = {"train": 5, "val": 2, "test": 3}
    entries: dict[str, Any] = {}
    for part, count in counts.items():
        entries[f"{part}_images"] = pixels(count, 4, 6, seed=count)
        entries[f"{part}_labels"] = np.arange(count)[:, None] % 2

    raw = read(entries)

    assert raw.parts is not None
    assert raw.parts.tolist() == ["train"] * 5 + ["validation"] * 2 + ["test"] * 3
    assert raw.whole_labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0, 1, 0]
    assert raw.whole[5, 0] == pytest.approx(entries["val_images"][0] / 127.5 - 1, abs=1e-6)
    assert len(np.unique(raw.patients)) == 10


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_may_be_first_or_last(channels_last: bool, read: Read) -> None:
    images = pixels(2, 3, 4, 6)
    stored = np.moveaxis(images, 1, -1) if channels_last else images

    raw = read({"images": stored, "labels": [0, 1]}, COLOUR)

    assert raw.inputs == pytest.approx(images / 127.5 - 1, abs=1e-6)


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 1), (1, 4, 6)])
def test_a_grey_image_may_name_its_channel_or_not(shape: tuple[int, ...], read: Read) -> None:
    assert read({"images": pixels(2, *shape), "labels": [0, 1]}).inputs.shape == (2, 1, 4, 6)


def test_patients_are_read_by_their_key(read: Read) -> None:
    raw = read(
        {"images": pixels(3, 4, 6), "labels": [0, 1, 0], "who": ["b", "a", "b"]}, patient="who"
    )

    assert raw.patients.tolist() == [0, 1, 0]


def test_labels_may_be_names(read: Read) -> None:
    raw = read({"images": pixels(2, 4, 6), "labels": ["malignant", "benign"]})

    assert raw.whole_labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"labels": [0, 1]}, "images"),
        ({"images": pixels(2, 4, 6)}, "labels"),
        ({"train_images": pixels(2, 4, 6), "labels": [0, 1]}, "train_labels"),
        ({"images": pixels(2, 6, 4), "labels": [0, 1]}, "(6, 4)"),
        ({"images": pixels(2, 4, 6, 3), "labels": [0, 1]}, "(4, 6, 3)"),
        ({"images": pixels(2, 24), "labels": [0, 1]}, "(24,)"),
        ({"images": np.uint8(3), "labels": [0]}, "a.npz"),
        ({"images": pixels(2, 4, 6), "labels": [0]}, "2 images but 1 labels"),
        ({"images": pixels(2, 4, 6), "labels": [[0, 1], [1, 0]]}, "labels"),
        ({"images": pixels(2, 4, 6), "labels": [0, 2]}, "'2'"),
        ({"images": pixels(2, 4, 6), "labels": [0, -1]}, "'-1'"),
        ({"images": pixels(2, 4, 6), "labels": [0, 0.5]}, "'0.5'"),
        ({"images": np.full((2, 4, 6), "a"), "labels": [0, 1]}, "a.npz"),
        ({"images": np.full((2, 4, 6), 1j), "labels": [0, 1]}, "a.npz"),
        ({"images": np.full((2, 4, 6), np.nan), "labels": [0, 1]}, "finite"),
        ({"images": np.full((2, 4, 6), np.inf), "labels": [0, 1]}, "finite"),
    ],
)
def test_an_archive_that_does_not_fit_is_named(
    entries: dict[str, Any], says: str, read: Read
) -> None:
    with pytest.raises(DataError) as caught:
        read(entries)
    assert says in caught.value.line()
    assert "a.npz" in caught.value.where


@pytest.mark.parametrize("who", [["a"], ["a", "b", "c"]])
def test_there_must_be_one_patient_an_image(who: list[str], read: Read) -> None:
    with pytest.raises(DataError, match=r"who|patient"):
        read({"images": pixels(2, 4, 6), "labels": [0, 1], "who": who}, patient="who")


def test_a_patient_key_that_is_not_there_is_named(read: Read) -> None:
    with pytest.raises(DataError, match="who"):
        read({"images": pixels(2, 4, 6), "labels": [0, 1]}, patient="who")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("entry", ["images", "labels"])
def test_pickled_objects_are_refused_and_never_run(entry: str, read: Read, tmp_path: Path) -> None:
    entries: dict[str, Any] = {"images": pixels(1, 4, 6), "labels": np.array([0])}
    entries[entry] = np.array([Bomb(tmp_path / "boom")], dtype=object)

    with pytest.raises(DataError, match=entry):
        read(entries)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("keep", [0, 1, 30, 200, -1, -30])
def test_a_cut_archive_is_named(keep: int, read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=pixels(2, 4, 6), labels=[0, 1])
    path.write_bytes(path.read_bytes()[:keep])

    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.where == str(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_with_broken_bytes_inside_is_named(
    compressed: bool, read: Read, tmp_path: Path
) -> None:
    path = tmp_path / "a.npz"
    (np.savez_compressed if compressed else np.savez)(
        path, images=pixels(50, 4, 6), labels=np.zeros(50)
    )
    content = bytearray(path.read_bytes())
    content[300:340] = b"\xff" * 40
    path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read()
    assert caught.value.where == str(path)


def test_what_is_no_archive_is_named(read: Read, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match="no such file"):
        read()
    path.write_text("hello", encoding="utf-8")
    with pytest.raises(DataError, match="archive"):
        read()
    with path.open("wb") as file:
        np.save(file, pixels(2, 4, 6))
    with pytest.raises(DataError, match="archive"):
        read()


def test_images_are_no_answer_to_a_study_of_tables(read: Read) -> None:
    table = {"kind": "table", "features": {"a": {}}, "label": "b"}

    with pytest.raises(DataError, match="table"):
        read({"images": pixels(2, 4, 6), "labels": [0, 1]}, table)
