"""Which cell of a subgroup a record is in: as the file says, or in none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from fedward.client.data.parts import divide
from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import (
    CsvSource,
    DicomSource,
    FolderSource,
    NiftiSource,
    NpzSource,
    SignalTableSource,
    Source,
)
from fedward.study.errors import DataError
from fedward.study.evaluation import Evaluation, Subgroup
from fedward.study.study import Study
from tests.client.data.dicom_made import made, ramp, save

StudyWith = Callable[[Mapping[str, object]], Study]

GROUPS = {
    "scanner": {"column": "scanner", "values": ["A", 2]},
    "age": {"column": "age", "edges": [50, 60]},
}
TEXT = "age,sex,scanner,diagnosis\n65,f,A,benign\n45,m,2.0,malignant\n60,f,B,0\n50,m,,1\n"
CELLS = [[2, 0], [0, 1], [2, -1], [1, -1]]  # subgroups by name: age, scanner


def read(
    study: Study,
    folder: Path,
    text: str = TEXT,
    **source: Any,  # noqa: ANN401
) -> RawRecords:
    (folder / "t.csv").write_text(text, "utf-8")
    return read_all(CsvSource(format="csv", path="t.csv", **source), study, folder)


def test_values_and_bands_of_a_table(study_with: StudyWith, tmp_path: Path) -> None:
    study = study_with({"evaluation": {"subgroups": GROUPS}})
    raw = read(study, tmp_path)

    assert raw.cells is not None
    assert raw.cells.tolist() == CELLS
    plain = read(study_with({}), tmp_path)
    assert plain.cells is None
    assert (raw.whole == plain.whole).all()  # age is an input too, and stays the number it is
    called = {"columns_are": {"scanner": "device"}}
    renamed = read(study, tmp_path, TEXT.replace("scanner", "device"), **called)
    assert renamed.cells is not None
    assert renamed.cells.tolist() == CELLS


def test_cells_stay_with_their_records(study_with: StudyWith, tmp_path: Path) -> None:
    rows = [f"{20 + n},{'fm'[n % 2]},{'A' if n % 3 else 'B'},{n % 2}" for n in range(60)]
    rows[7] = "27,,A,1"  # left out
    study = study_with({"evaluation": {"subgroups": GROUPS}, "data.missing": "drop"})
    raw = read(study, tmp_path, "\n".join(["age,sex,scanner,diagnosis", *rows, ""]))

    assert raw.cells is not None
    assert len(raw) == 59
    expected = {n: [int(n >= 30) + int(n >= 40), 0 if n % 3 else -1] for n in range(60)}
    assert raw.cells.tolist() == [expected[row] for row in raw.rows.tolist()]
    for part in divide(raw, study.data.parts, where="here").values():
        ages = part.whole[:, 0].numpy() * 10 + 55
        assert part.cells is not None
        assert part.cells[:, 0].tolist() == np.digitize(ages.round(), [50, 60]).tolist()


def test_what_is_filled_in_is_in_no_band(study_with: StudyWith, tmp_path: Path) -> None:
    features = {"age": {"center": 55.0, "scale": 10.0, "fill": 65.0}}
    study = study_with({"evaluation": {"subgroups": GROUPS}, "data.features": features})
    raw = read(study, tmp_path, TEXT.replace("45,m", ",m"))

    assert raw.cells is not None
    assert raw.cells[:, 0].tolist() == [2, -1, 2, 1]
    assert raw.whole[1].tolist() == [1.0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("scanner", "device", "no column 'scanner'"),
        ("45,m", "old,m", "'age'"),
        ("45,m", "inf,m", "'age'"),
    ],
)
def test_a_column_that_is_lacking_or_no_number_is_told_in_a_line(
    old: str, new: str, words: str, study_with: StudyWith, tmp_path: Path
) -> None:
    study = study_with(
        {"evaluation": {"subgroups": GROUPS}, "data.features": {"sex": {"categories": ["f", "m"]}}}
    )
    with pytest.raises(DataError, match=words) as caught:
        read(study, tmp_path, TEXT.replace(old, new))

    assert "t.csv" in caught.value.line()
    assert "\n" not in caught.value.line()


IMAGES = {
    "data": {"kind": "images", "shape": [1, 4, 4]},
    "evaluation": {"subgroups": {"sex": {"column": "sex", "values": ["f", "m"]}}},
}


def pictures(folder: Path, header: str, *says: str) -> FolderSource:
    lines = [header]
    for number, said in enumerate(says):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,{number % 2},{said}")
    (folder / "labels.csv").write_text("\n".join([*lines, ""]), "utf-8")
    return FolderSource(format="folder", path=".", labels="labels.csv")


def test_a_table_of_labels_says_it_for_images(study_with: StudyWith, tmp_path: Path) -> None:
    source = pictures(tmp_path, "file,label,sex", "m", "f", "x", "m")
    raw = read_all(source, study_with(IMAGES), tmp_path)

    assert raw.cells is not None
    assert raw.cells.tolist() == [[1], [0], [-1], [1]]


def test_files_of_which_nobody_says_it_are_refused(study_with: StudyWith, tmp_path: Path) -> None:
    study = study_with(IMAGES)
    listed = pictures(tmp_path, "file,label,gender", "m", "f")
    np.savez(tmp_path / "i.npz", images=np.zeros((4, 4, 4), np.uint8), labels=np.arange(4) % 2)
    sources: list[tuple[Source, str]] = [
        (listed, "no column 'sex'"),
        (NpzSource(format="npz", path="i.npz"), "npz have no columns"),
    ]
    for source, words in sources:
        with pytest.raises(DataError, match=words) as caught:
            read_all(source, study, tmp_path)
        assert "\n" not in caught.value.line()


def test_recordings_cut_in_pieces_are_in_the_cell_of_their_row(
    signal_study: Callable[..., Study], tmp_path: Path
) -> None:
    for name, length in (("x", 16), ("y", 8)):
        rows = "\n".join(f"{n},{n}" for n in range(length))
        (tmp_path / f"{name}.csv").write_text(f"t,a\n{rows}\n", "utf-8")
    (tmp_path / "labels.csv").write_text("file,label,years\nx.csv,0,70\ny.csv,1,30\n", "utf-8")
    source = SignalTableSource(format="signal-csv", path=".", rate=100.0, labels="labels.csv")
    study = signal_study(cut={"by": "sliding", "stride": 8})
    table = Evaluation(subgroups={"age": Subgroup(column="age", edges=(50.0,))})
    study = study.model_copy(update={"evaluation": table})
    called = source.model_copy(update={"columns_are": {"age": "years"}})
    raw = read_all(called, study, tmp_path)

    assert raw.cells is not None
    assert raw.cells.tolist() == [[1], [1], [0]]
    with pytest.raises(DataError, match="no column 'age'"):
        read_all(source, study, tmp_path)


def test_a_table_of_labels_says_it_for_dicom_and_nifti(
    study_with: StudyWith, tmp_path: Path
) -> None:
    rows = []
    for number, sex in enumerate("mfm"):
        save(made(ramp(4, 4, seed=number), PatientID=f"p{number}"), tmp_path / f"{number}.dcm")
        volume = nibabel.Nifti1Image(np.full((4, 4, 4), number, np.uint8), np.eye(4))
        nibabel.save(volume, tmp_path / f"{number}.nii")
        rows.append(f"{number}.END,{number % 2},{sex}")
    rows.reverse()  # the table's order, not the files' names', is the records'
    for end in ("dcm", "nii"):
        text = "\n".join(["file,label,sex", *rows, ""]).replace("END", end)
        (tmp_path / f"{end}.csv").write_text(text, "utf-8")
    deep = {**IMAGES, "data": {"kind": "images", "shape": [1, 4, 4, 4]}}
    dicom = DicomSource(format="dicom", path=".", labels="dcm.csv")
    nifti = NiftiSource(format="nifti", path=".", labels="nii.csv")
    found = [
        read_all(dicom, study_with(IMAGES), tmp_path),
        read_all(nifti, study_with(deep), tmp_path),
    ]

    for raw in found:
        assert raw.cells is not None
        assert np.asarray(raw.labels).tolist() == [0, 1, 0]
        assert raw.cells.tolist() == [[1], [0], [1]]
    alone = study_with({**IMAGES, **UNLABELLED})
    with pytest.raises(DataError, match="nothing says the column 'sex'"):
        read_all(DicomSource(format="dicom", path="."), alone, tmp_path)


UNLABELLED: dict[str, Any] = {
    "task": {"kind": "reconstruction"},
    "data": {"kind": "images", "shape": [1, 4, 4], "label": []},
}
