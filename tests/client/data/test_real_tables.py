"""Real tables, texts and sequences through `hospital.toml` alone: counts of their READMEs."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from fedward.client.checking import check
from fedward.client.data.reading import read_all, read_parts
from fedward.client.hospital import HospitalFile, read_hospital
from tests.client.data.conftest import StudyWith

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"


def hospital(folder: Path, data_set: str, file: str, **source: Any) -> HospitalFile:  # noqa: ANN401
    path = SHARED / data_set / file
    if not path.exists():
        pytest.skip(f"{data_set} is not here")
    values = {"name": "north", "device": "cpu", "data": {"path": str(path), **source}}
    (folder / "hospital.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    return read_hospital(folder / "hospital.toml")


SPLICE: dict[str, Any] = {
    "task": {"kind": "multiclass", "classes": ["EI", "IE", "N"]},
    "data": {
        "kind": "sequence",
        "sequence": [f"attribute_{number}" for number in range(1, 61)],
        "alphabet": ["A", "C", "G", "T"],
        "length": 60,
        "label": "Class",
    },
}


def test_splice_junctions(tmp_path: Path, study_with: StudyWith) -> None:
    here = hospital(tmp_path, "uci_splice", "splice.arff", format="arff", patient="Instance_name")

    raw = read_all(here.data, study_with(SPLICE), tmp_path)
    once = read_all(here.data, study_with({**SPLICE, "data.duplicates": "drop"}), tmp_path)

    assert Counter(raw.whole_labels.tolist()) == {0: 767, 1: 768, 2: 1655}
    assert raw.whole.shape == (3190, 60)
    assert 0 not in raw.whole
    assert (len(once), once.dropped) == (3190 - 185, 185)
    assert len(np.unique(once.whole, axis=0)) == len(once)
    told = check(here, tmp_path, study_with(SPLICE)).facts
    assert any("have the inputs of a training record" in text for _, text in told)
    clean = check(here, tmp_path, study_with({**SPLICE, "data.duplicates": "drop"})).facts
    assert not any("have the inputs of a training record" in text for _, text in clean)


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("MTS-Dialog-TrainingSet.csv", 1201),
        ("MTS-Dialog-ValidationSet.csv", 100),
        ("MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv", 200),
        ("MTS-Dialog-TestSet-2-MEDIQA-Sum-2023.csv", 200),
    ],
)
def test_dialogues(file: str, count: int, tmp_path: Path, study_with: StudyWith) -> None:
    here = hospital(tmp_path, "mts_dialog", file, format="csv", patient="record")
    with (SHARED / "mts_dialog" / file).open(encoding="utf-8", newline="") as lines:
        headers = sorted({row["section_header"].strip() for row in csv.DictReader(lines)})
    study = study_with(
        {
            "task": {"kind": "multiclass", "classes": headers},
            "data": {
                "kind": "text",
                "text": "dialogue",
                "length": 256,
                "buckets": 4096,
                "label": "section_header",
            },
        }
    )

    raw = read_all(here.data, study, tmp_path)

    assert raw.whole.shape == (count, 256)
    assert (raw.whole[:, 0] >= 2).all()
    if count == 1201:
        of = {name: int((raw.whole_labels == number).sum()) for number, name in enumerate(headers)}
        assert (of["FAM/SOCHX"], of["GENHX"], of["PASTMEDICALHX"]) == (351, 282, 118)


def test_dialogues_of_a_folder_with_a_file_for_each_part(
    tmp_path: Path, study_with: StudyWith
) -> None:
    files = {
        "train": "MTS-Dialog-TrainingSet.csv",
        "validation": "MTS-Dialog-ValidationSet.csv",
        "test": "MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv",
    }
    here = hospital(tmp_path, "mts_dialog", ".", format="csv", patient="record", files=files)
    with (SHARED / "mts_dialog" / files["train"]).open(encoding="utf-8", newline="") as lines:
        headers = sorted({row["section_header"].strip() for row in csv.DictReader(lines)})
    study = study_with(
        {
            "task": {"kind": "multiclass", "classes": headers},
            "data": {
                "kind": "text",
                "text": "section_text",
                "length": 64,
                "buckets": 4096,
                "label": "section_header",
                "parts": {"by": "file"},
            },
        }
    )

    parts = read_parts(here, study, tmp_path)

    assert {part: len(records) for part, records in parts.items()} == {
        "train": 1201,
        "validation": 100,
        "test": 200,
    }
    assert len(headers) == 20
    assert len(np.unique(parts["train"].whole_labels)) == 20


BRCA = [(248, 63), (156, 40), (164, 42), (129, 33), (129, 33), (40, 11)]
EVENTS = [14, 4, 8, 3, 2, 1]


def test_survival_of_six_regions(tmp_path: Path, study_with: StudyWith) -> None:
    source: dict[str, Any] = {
        "format": "csv",
        "patient": "pid",
        "columns_are": {"part": "fold"},
        "join": [
            {
                "path": str(SHARED / "fed_tcga_brca" / "train_test_split.csv"),
                "on": "pid",
                "unmatched": "drop",
            }
        ],
    }
    whole = hospital(tmp_path, "fed_tcga_brca", "brca.csv", **source)
    with (SHARED / "fed_tcga_brca" / "brca.csv").open(encoding="utf-8", newline="") as lines:
        features = next(csv.reader(lines))[1:-2]
    study = study_with(
        {
            "task": {"kind": "survival", "intervals": [500.0, 1000.0, 2000.0]},
            "data": {
                "kind": "table",
                "features": {name: {} for name in features},
                "label": ["T", "E"],
                "parts": {"by": "file"},
            },
        }
    )

    raw = read_all(whole.data, study, tmp_path)
    regions = []
    for number in range(6):
        one = {**source, "only": {"fold2": [f"train_{number}", f"test_{number}"]}}
        here = hospital(tmp_path, "fed_tcga_brca", "brca.csv", **one)
        regions.append(read_parts(here, study, tmp_path))

    assert raw.whole.shape == (1088, 39)
    assert (len(raw), raw.dropped, int(raw.whole_labels[:, 1].sum())) == (1088, 8, 151)
    assert [(len(parts["train"]), len(parts["test"])) for parts in regions] == BRCA
    assert [int(parts["test"].whole_labels[:, 1].sum()) for parts in regions] == EVENTS


@pytest.mark.parametrize(
    ("place", "count", "kept", "ill"),
    [
        ("cleveland", 303, 303, 139),
        ("hungarian", 294, 261, 98),
        ("switzerland", 123, 46, 45),
        ("va", 200, 130, 101),
    ],
)
def test_hearts(
    place: str, count: int, kept: int, ill: int, tmp_path: Path, study_with: StudyWith
) -> None:
    columns = [f"c{number}" for number in range(14)]
    here = hospital(
        tmp_path,
        "uci_heart_disease",
        f"processed.{place}.data",
        format="csv",
        columns=columns,
        patient="record",
    )
    study = study_with(
        {
            "data": {
                "kind": "table",
                "features": {name: {} for name in columns[:10]},
                "label": "c13",
                "class_values": [[0], [1, 2, 3, 4]],
                "missing": "drop",
            },
        }
    )

    raw = read_all(here.data, study, tmp_path)

    assert (len(raw), len(raw) + raw.dropped, int(raw.whole_labels.sum())) == (kept, count, ill)
