"""What a table names is a file of the folder, whoever reads it; or the row is a named fault."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from fedward.client.data.labelled import read_labels
from fedward.client.data.named_files import NamedFile, files_of, path_in
from fedward.study.errors import DataError
from tests.client.data.conftest import Ward
from tests.client.data.dicom_made import made, ramp, save
from tests.client.data.test_edf import write as write_edf
from tests.client.data.test_nifti import voxels
from tests.client.data.test_nifti import write as write_nifti
from tests.client.data.test_wfdb_records import write as write_wfdb

TABLE = Path("/srv/d/labels.csv")


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/etc/passwd", "..", "../a.png", "a/../../b", "a/..", "a/../b"])
def test_a_name_that_may_lead_out_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError) as caught:
        path_in(Path("/srv/d"), name, TABLE, 6)

    assert caught.value.where == str(TABLE)
    assert f"row 7 names a file outside the folder, {name!r}; give its path" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "./a.png", "..a", "a..b/c..", "...", " a b"])
def test_any_other_name_is_a_path_in_the_folder(name: str) -> None:
    assert path_in(Path("/srv/d"), name, TABLE, 0) == Path("/srv/d") / name


def test_only_the_beginning_of_a_long_name_is_told() -> None:
    with pytest.raises(DataError) as caught:
        path_in(Path("/srv/d"), "/" + "x" * 10_000, TABLE, 0)

    assert len(str(caught.value)) < 400


def test_a_file_outside_is_neither_looked_for_nor_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "a").write_bytes(b"secret")
    (tmp_path / "d" / "b").write_bytes(b"own")
    (tmp_path / "d" / "t.csv").write_text("file\n../a\nb\n", encoding="utf-8")
    table = read_labels(tmp_path / "d" / "t.csv")
    asked: list[Path] = []

    def state_of(path: Path) -> tuple[int, ...]:
        asked.append(path)
        return (3, 0)

    monkeypatch.setattr("fedward.client.data.named_files.state_of", state_of)

    outside, inside = files_of(tmp_path / "d", table.column("file"), table)

    assert asked == [tmp_path / "d" / "b"]
    assert outside.fault is not None
    assert (outside.path, inside.fault) == (tmp_path / "d", None)
    assert outside.key(tmp_path, "window") != outside.key(tmp_path)
    with pytest.raises(DataError, match="row 1 names a file outside"), outside.opened():
        pass


def test_a_file_of_a_listing_is_read_as_it_was_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"own")
    found = NamedFile.found(tmp_path / "a")

    with found.opened() as content:
        assert content.read() == b"own"
    (tmp_path / "a").write_bytes(b"another")
    with pytest.raises(DataError, match="was changed"), found.opened():
        pass


# --- Readers --------------------------------------------------------------------------------------

IMAGES: dict[str, Any] = {"kind": "images", "shape": [1, 4, 6], "label": "label"}
VOLUMES: dict[str, Any] = {**IMAGES, "shape": [1, 3, 4, 5]}
SIGNALS: dict[str, Any] = {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8}
ORGANS = {"kind": "segmentation", "classes": ["none", "liver"]}


class Kind(NamedTuple):
    """A reader that takes names from a table.

    Attributes:
        source: Its format, and what `hospital.toml` has to say beside.
        data: The study's.
        suffix: Of its files.
        write: A good file of that name, in whatever folder.
        task: The study's, where it has none of two classes.
        row: Of the table, for a name: the file and the label.
    """

    source: dict[str, Any]
    data: dict[str, Any]
    suffix: str
    write: Callable[[Path], object]
    task: dict[str, Any] | None = None
    row: Callable[[str], str] = "{},benign".format


def picture(path: Path) -> None:
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(path)


def recording(path: Path) -> None:
    """Also of a folder that wfdb would have to make."""
    path.parent.mkdir(exist_ok=True)
    write_wfdb(path.parent, path.name, np.arange(20.0)[:, None] / 100)


KINDS = {
    "folder": Kind({"format": "folder"}, IMAGES, ".png", picture),
    "folder, mask": Kind(
        {"format": "folder"}, IMAGES, ".png", picture, ORGANS, "own.png,{}".format
    ),
    "nifti": Kind(
        {"format": "nifti"}, VOLUMES, ".nii", lambda path: write_nifti(path, voxels(5, 4, 3))
    ),
    "nifti, mask": Kind(
        {"format": "nifti"},
        VOLUMES,
        ".nii",
        lambda path: write_nifti(path, voxels(5, 4, 3) % 2),
        ORGANS,
        "own.nii,{}".format,
    ),
    "dicom": Kind({"format": "dicom"}, IMAGES, ".dcm", lambda path: save(made(ramp()), path)),
    "wfdb": Kind({"format": "wfdb"}, SIGNALS, "", recording),
    "edf": Kind(
        {"format": "edf"}, SIGNALS, ".edf", lambda path: write_edf(path, "edf", (100,), seconds=1)
    ),
    "signal-csv": Kind(
        {"format": "signal-csv", "rate": 100},
        SIGNALS,
        ".csv",
        lambda path: path.write_text("a\n" + "1\n2\n" * 10, encoding="utf-8"),
    ),
}


RECORDINGS = ["wfdb", "edf", "signal-csv"]
OPENED = ["folder", "folder, mask", "nifti", "nifti, mask"]  # by the names that the table has


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, ward: Ward) -> Kind:
    """Files `own` and `deep/own` in the folder `d`, and the same outside of it."""
    found = KINDS[request.param]
    for folder in ("d", "d/deep", "outside"):
        (ward.folder / folder).mkdir()
        found.write(ward.folder / folder / f"own{found.suffix}")
    return found


def asked(kind: Kind, ward: Ward, *names: str, **data: object) -> tuple[dict[str, Any], Any]:
    """The hospital's [data] and the study's changes, for a table of these names."""
    lines = [kind.row(name) for name in names]
    (ward.folder / "d" / "labels.csv").write_text("file,label\n" + "\n".join(lines) + "\n")
    source = {"path": "d", "labels": "labels.csv", "patient": "record", **kind.source}
    changes: dict[str, Any] = {"data": {**kind.data, **data}}
    return source, changes if kind.task is None else {**changes, "task": kind.task}


NAMES = ["{folder}/outside/own", "../outside/own", "deep/../../outside/own", "deep/../own"]


@pytest.mark.parametrize("name", NAMES)
def test_a_row_that_names_a_file_elsewhere_is_a_named_fault(
    kind: Kind, ward: Ward, name: str
) -> None:
    """The file is there, and a good one: were it not refused, it would be read."""
    elsewhere = name.format(folder=ward.folder) + kind.suffix
    source, changes = asked(kind, ward, f"own{kind.suffix}", elsewhere, f"deep/own{kind.suffix}")
    told = (
        f"{ward.folder / 'd' / 'labels.csv'}: row 2 names a file outside the folder, "
        f"{elsewhere[:100]!r}; give its path in the folder"
    )

    found = ward.check(source, changes)
    assert any(text.startswith("2 can be used, 1 cannot") for _, text in found.facts)
    faults = [line for line in found.problems if line.startswith(str(ward.folder / "d"))]
    assert len(faults) == 1
    assert faults[0].startswith(told)
    with pytest.raises(DataError) as caught:
        ward.read(source, changes)
    assert str(caught.value) == faults[0]


@pytest.mark.parametrize("kind", [*OPENED, "dicom"], indirect=True)
def test_a_study_that_leaves_damaged_files_out_does_not_leave_such_rows_out(
    kind: Kind, ward: Ward
) -> None:
    """A file that cannot be read may be left out; a table that is wrong is to be mended."""
    names = (f"own{kind.suffix}", f"../outside/own{kind.suffix}")
    source, changes = asked(kind, ward, *names, unreadable="drop")

    with pytest.raises(DataError, match="row 2 names a file outside the folder"):
        ward.read(source, changes)


def test_what_is_told_is_the_name_of_today(kind: Kind, ward: Ward) -> None:
    """What was decoded is kept, with what was told of it: another name is another record."""
    for name in ("../outside/own", "../../elsewhere"):
        names = (f"own{kind.suffix}", f"{name}{kind.suffix}")
        told = ward.check(*asked(kind, ward, *names)).problems
        assert [f"{name}{kind.suffix}" in line for line in told if "outside the" in line] == [True]


def test_a_plain_nested_name_is_read(kind: Kind, ward: Ward) -> None:
    source, changes = asked(kind, ward, f"deep/own{kind.suffix}", f"own{kind.suffix}")

    raw = ward.read(source, changes)

    assert len(set(raw.rows.tolist())) == 2
    assert raw.whole.any()
    assert raw.whole.shape[0] == len(raw)


@pytest.mark.parametrize("kind", ["folder", "nifti", "dicom", "edf", "signal-csv"], indirect=True)
def test_a_name_is_what_the_hospital_calls_its_file(kind: Kind, ward: Ward) -> None:
    name = f"Zoë's 1. (neu){kind.suffix}"
    kind.write(ward.folder / "d" / name)

    assert len(set(ward.read(*asked(kind, ward, name)).rows.tolist())) >= 1


@pytest.mark.parametrize("kind", OPENED, indirect=True)
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_a_link_that_the_hospital_made_is_its_own_business(
    kind: Kind, ward: Ward, whole: bool
) -> None:
    link = "there" if whole else f"there{kind.suffix}"
    target = ward.folder / "outside" / ("" if whole else f"own{kind.suffix}")
    (ward.folder / "d" / link).symlink_to(target)
    name = f"there/own{kind.suffix}" if whole else link

    assert len(ward.read(*asked(kind, ward, name))) == 1


@pytest.mark.parametrize("kind", RECORDINGS, indirect=True)
def test_recordings_are_not_read_through_links_that_lead_elsewhere(kind: Kind, ward: Ward) -> None:
    shutil.rmtree(ward.folder / "d" / "deep")
    (ward.folder / "d" / "deep").symlink_to(ward.folder / "outside")

    with pytest.raises(DataError, match=r"d: deep/own.*no such file: 'deep/own"):
        ward.read(*asked(kind, ward, f"deep/own{kind.suffix}"))


def test_a_folder_called_like_a_home_is_none(
    tmp_path: Path, ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pandas reads the home's file, where the hospital's file is named without its folder."""
    for folder, value in (("~", 1), ("home", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("a\n" + f"{value}\n" * 8, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ward.folder = Path()
    (tmp_path / "labels.csv").write_text("file,label\n~/x.csv,benign\n", encoding="utf-8")
    source = {"format": "signal-csv", "path": ".", "labels": "labels.csv", "rate": 100}

    raw = ward.read(source, {"data": {**SIGNALS, "center": [0.0], "scale": [1.0]}})

    assert raw.whole.tolist() == [[[1.0] * 8]]
