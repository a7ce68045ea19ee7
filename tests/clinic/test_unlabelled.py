"""Files without labels are seen as the readers of training see them, or named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fedward.client.data.reading import read_all
from fedward.clinic.unlabelled import read_unlabelled
from fedward.study.errors import DataError
from fedward.study.scaling import Scaling
from fedward.study.study import Study, parse_study
from tests.client.data.conftest import DNA, TEXT
from tests.client.data.dicom_made import made, ramp, save
from tests.client.data.test_wfdb_records import write as write_wfdb

StudyWith = Callable[[Mapping[str, object]], Study]


def study_of(data: dict[str, Any], **task: Any) -> Study:  # noqa: ANN401
    return parse_study(
        {
            "study": {"name": "any"},
            "task": {"kind": "multiclass", "classes": ["no", "yes"], **task},
            "model": {"name": "any"},
            "data": data,
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


IMAGES = {"kind": "images", "shape": [1, 4, 6]}
SIGNALS = {"kind": "signals", "channels": ["b"], "rate": 50, "length": 20, "center": [0.1]}


def test_a_row_without_its_label_is_scaled_as_in_training(study_with: StudyWith) -> None:
    study = study_with({"data.features.age": {"center": 50.0, "scale": 10.0}})
    asked = read_unlabelled({"one.csv": b"sex,age\nm,65\n"}, study)
    assert asked.inputs.tolist() == [[1.5, 0.0, 1.0]]
    assert asked.names == ("one.csv",)
    rows = [{"age": 65, "sex": "m"}, {"age": "40", "sex": "f"}]
    asked = read_unlabelled({"rows.json": json.dumps(rows).encode()}, study)
    assert asked.inputs.tolist() == [[1.5, 0.0, 1.0], [-1.0, 1.0, 0.0]]
    assert asked.names == ("rows.json, record 1", "rows.json, record 2")
    groups = {"ward": {"column": "ward", "values": ["north"]}}  # which no clinic has to tell
    judged = study_with({"data.features.age": {}, "evaluation": {"subgroups": groups}})
    assert len(read_unlabelled({"one.csv": b"sex,age\nm,65\n"}, judged).inputs) == 1


def test_measured_constants_are_those_of_the_run(study_with: StudyWith) -> None:
    study = study_with({"data.features.age": {"bounds": [20.0, 90.0]}, "data.scaling": "measured"})
    asked = read_unlabelled({"one.csv": b"sex,age\nf,61\n"}, study, Scaling((60.0,), (4.0,)))
    assert asked.inputs.tolist() == [[0.25, 1.0, 0.0]]


@pytest.mark.parametrize("kind", ["binary", "regression", "segmentation"])
def test_a_picture_is_read_whatever_the_task_is(kind: str) -> None:
    task = {"bounds": [0, 9]} if kind == "regression" else {"classes": ["no", "yes"]}
    values = study_of(IMAGES).model_dump(mode="json", exclude_none=True)
    study = parse_study({**values, "task": {"kind": kind, **task}})
    pixels = ramp(kind=np.uint8)
    asked = read_unlabelled({"../x ray.png": png(pixels)}, study)
    assert np.allclose(asked.inputs[0, 0].numpy(), (pixels / 255 - 0.5) / 0.5, atol=1e-6)
    assert asked.names == ("x ray.png",)


def test_dicom_and_signals_are_what_training_saw(tmp_path: Path) -> None:
    dataset = made(ramp())
    path = save(dataset, tmp_path / "no" / "scan")
    study = study_of(IMAGES)
    source = {"format": "dicom", "path": "."}
    assert torch.equal(
        read_unlabelled({"scan": path.read_bytes()}, study).inputs,
        torch.from_numpy(read_all(_source(source), study, tmp_path).whole),
    )
    folder = tmp_path / "signals"
    folder.mkdir()
    write_wfdb(folder, "r1", np.random.default_rng(0).normal(size=(40, 2)))
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    (folder / "labels.csv").write_text("file,label\nr1,no\n", encoding="utf-8")
    study = study_of(SIGNALS)
    source = {"format": "wfdb", "path": "signals", "labels": "labels.csv", "patient": "record"}
    whole = read_all(_source(source), study, tmp_path).whole
    assert whole.shape == (1, 1, 20)
    assert torch.equal(read_unlabelled(files, study).inputs, torch.from_numpy(whole))


def test_texts_and_sequences_become_tokens() -> None:
    text = study_of({**TEXT, "vocabulary": ["pain", "chest"]})
    asked = read_unlabelled({"note.txt": b"Chest pain\n"}, text)
    assert asked.inputs.tolist() == [[3, 2, 0, 0, 0, 0]]
    for name, content in {
        "a.fasta": b">one\nACG\n",
        "a.txt": b"acg",
        "a.csv": b"dna\nACG\n",
    }.items():
        study = study_of({**DNA, "sequence": "sequence"}) if name == "a.fasta" else study_of(DNA)
        assert read_unlabelled({name: content}, study).inputs.tolist() == [[2, 3, 4, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("files", "data", "said"),
    [
        ({}, IMAGES, "no file was given"),
        ({"a/x.png": b"", "b\\x.png": b""}, IMAGES, "x.png: two files have one name"),
        ({"a/..": b""}, IMAGES, "..: a file's name cannot be used"),
        ({"": b""}, IMAGES, "name cannot be used"),
        ({"a\0.png": b""}, IMAGES, "name cannot be used"),
        ({"é" * 150 + ".png": b""}, IMAGES, "name cannot be used"),
        ({"a.wav": b"RIFF"}, IMAGES, "a.wav: no file of a kind that shows images; give .dcm"),
        ({"a.png": b"\x89PNG broken"}, IMAGES, "a.png: cannot be read as an image"),
        ({"a.dcm": b"\0" * 128 + b"DICM" + b"\xff" * 40}, IMAGES, "a.dcm"),
        ({"a.png": png(np.zeros((2, 2), np.uint8))}, IMAGES, "a.png"),
        ({"a.txt": b"\xff\xfe"}, TEXT | {"buckets": 9}, "a.txt: is not UTF-8 text"),
        ({"a.json": b"[3]"}, TEXT | {"buckets": 9}, "a.json: is no row"),
        ({"a.hea": b"a 2 100 10\n"}, SIGNALS, "a"),
    ],
)
def test_what_cannot_be_read_is_named_without_our_folders(
    files: dict[str, bytes], data: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError) as refused:
        read_unlabelled(files, study_of(data))
    assert said in refused.value.line()
    assert "/tmp" not in refused.value.line()  # noqa: S108 - where temporary folders are


def _source(said: dict[str, Any]) -> Any:  # noqa: ANN401
    from pydantic import TypeAdapter

    from fedward.client.data.sources import Source

    return TypeAdapter(Source).validate_python(said)
