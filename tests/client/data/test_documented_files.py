"""Every example of docs/data.md reads files that fit it: the client's way, and the check's."""

from __future__ import annotations

import gzip
import hashlib
import json
import sqlite3
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from fedward.client.checking import check
from fedward.client.data.parts import assign
from fedward.client.data.reading import context_of, read_with
from fedward.client.hospital import read_hospital
from fedward.study.study import Study, parse_study
from tests.client.data.dicom_made import made, save
from tests.client.data.documented import BLOCKS, WHOLE, Example, examples, of_a_study
from tests.client.data.test_edf import write as write_edf
from tests.client.data.test_fhir import LOINC, UCUM, bundle, coded, patient, pulse, stroke
from tests.client.data.test_nifti import write as write_nifti
from tests.client.data.test_omop import SCHEMA
from tests.client.data.test_wfdb_records import write as write_wfdb

EXAMPLES = examples()
MODELS = {"signals": "temporal_cnn", "text": "bag_of_tokens", "sequence": "bag_of_tokens"}


class Wanted(NamedTuple):
    """What is to be read of the files that were written.

    Attributes:
        inputs: Of all records; what has fewer numbers is the same along that axis.
        labels: Of each record, as the task has them.
        names: What the hospital calls the patient of each record.
        left_out: Records that the study or the hospital's file leaves out.
        parts: Of each record; None where a hash says it.
        data: What the page says in words of the study's [data].
    """

    inputs: Any
    labels: list[Any]
    names: list[str]
    left_out: int = 0
    parts: list[str] | None = None
    data: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it


# --- Images: a window of HU 40 with a width of 400, then -1 to 1 ----------------------------------


def level(*values: float) -> NDArray[np.float64]:
    """Images of one number each."""
    return np.array(values).reshape(-1, 1, 1, 1)


def dicom(folder: Path) -> Wanted:
    """An image, a file of two frames, and a file that is none."""
    flat = np.full((8, 8), 40 + 1024, np.uint16)
    frames = np.full((2, 8, 8), 240 + 1024, np.uint16)
    hu = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    save(made(flat, **hu), folder / "scans" / "ct" / "a.dcm")
    save(made(frames, NumberOfFrames=2, PatientID="p2", **hu), folder / "scans" / "b")
    (folder / "scans" / "c.dcm").write_bytes(b"damaged")
    table = "file,finding\nb,nodule\nct/a.dcm,no finding\nc.dcm,nodule\n"
    (folder / "scans" / "labels.csv").write_text(table)
    return Wanted(level(1, 1, 0), [1, 1, 0], ["p2", "p2", "p1"], left_out=1)


def pictures(folder: Path) -> Wanted:
    (folder / "pictures" / "deep").mkdir(parents=True)
    for name, grey in (("a.png", 40), ("deep/b.jpg", 240), ("c.png", 0)):
        Image.fromarray(np.full((8, 8), grey, np.uint8)).save(folder / "pictures" / name)
    (folder / "pictures" / "d.png").write_bytes(b"damaged")
    table = "file,finding,mrn\na.png,0,x\ndeep/b.jpg,1,y\nc.png,no finding,x\nd.png,1,z\n"
    (folder / "pictures" / "labels.csv").write_text(table)
    return Wanted(level(0, 1, -0.2), [0, 1, 0], ["x", "y", "x"], left_out=1)


def archive_of_pictures(folder: Path) -> Wanted:
    images = np.full((3, 8, 8), 40, np.uint8)
    images[1] = 240
    mrn = np.array(["x", "y", "x"])
    np.savez(folder / "pictures.npz", images=images, labels=[0, 1, 1], mrn=mrn)
    return Wanted(level(0, 1, 0), [0, 1, 1], ["x", "y", "x"])


def nifti(folder: Path) -> Wanted:
    """Numbers by x, y and z; the lower half is air."""
    values = np.full((8, 8, 4), 40, np.int16)
    values[:, :, :2] = -1000
    write_nifti(folder / "volumes" / "a.nii", values)
    write_nifti(folder / "volumes" / "b.nii.gz", np.full((128, 128, 64), 240, np.int16))
    table = "file,nodule,mrn\nb.nii.gz,nodule,y\na.nii,no finding,x\n"
    (folder / "volumes" / "labels.csv").write_text(table)
    inputs = np.ones((2, 1, 64, 1, 1))
    inputs[1, 0, :, 0, 0] = np.interp(np.arange(64), [23.5, 39.5], [-1, 0])
    inputs[1, 0, 23:41] = np.nan  # between air and the rest the resizing decides
    return Wanted(inputs, [1, 0], ["y", "x"], data={"shape": [1, 64, 128, 128]})


# --- Signals: 2 Hz, 0.1 mV ------------------------------------------------------------------------

STRIDE = {"cut": {"by": "sliding", "stride": 64}}


def sine(rate: float, seconds: float) -> NDArray[np.float64]:
    turns: NDArray[np.float64] = 2 * np.arange(round(seconds * rate)) / rate
    return 0.1 * np.sin(2 * np.pi * turns)


def cut_at(*starts: int) -> NDArray[np.float64]:
    """The sine's 128 samples at 180 a second, from each of these on."""
    whole = sine(180, 10)
    return np.stack([whole[None, start : start + 128] for start in starts])


def wfdb(folder: Path) -> Wanted:
    """Of one patient's two records beats at 2, 3 and 3.9 s, of which the last has no room."""
    (folder / "mitdb").mkdir()
    marks = {"201": {720: "N", 900: "+"}, "202": {1080: "V", 1404: "E"}, "203": {720: "L"}}
    for name, of in marks.items():
        write_wfdb(folder / "mitdb", name, sine(360, 4)[:, None], of, 360, channels=["MLII"])
    rows = "".join(f"{name},{name}\n" for name in marks)
    (folder / "mitdb" / "patients.csv").write_text("record,patient\n" + rows)
    inputs = cut_at(360 - 48, 540 - 48, 360 - 48)
    return Wanted(inputs, [0, 1, 0], ["201", "201", "203"], left_out=1)


def edf(folder: Path) -> Wanted:
    """256 samples a second, in millionths of a volt."""
    (folder / "nights").mkdir()
    for name in ("a.edf", "b c.edf"):
        write_edf(folder / "nights" / name, rates=(256,), seconds=2, channels=("ECG II",))
    (folder / "nights" / "labels.csv").write_text("file,label,mrn\na.edf,N,x\nb c.edf,E,y\n")
    inputs = cut_at(0, 64, 128, 192, 0, 64, 128, 192)
    return Wanted(inputs, [0] * 4 + [1] * 4, ["x"] * 4 + ["y"] * 4, data=STRIDE)


def tables_of_samples(folder: Path) -> Wanted:
    (folder / "exports").mkdir()
    for name, values in (("a.csv", sine(250, 2)), ("b.csv", -sine(250, 2))):
        lines = "".join(f"{number},{value}\n" for number, value in enumerate(values))
        (folder / "exports" / name).write_text("t,MLII\n" + lines)
    (folder / "exports" / "labels.csv").write_text("file,label,mrn\na.csv,R,x\nb.csv,V,y\n")
    inputs = cut_at(0, 64, 128, 192)
    return Wanted(
        np.concatenate([inputs, -inputs]), [0] * 4 + [1] * 4, ["x"] * 4 + ["y"] * 4, data=STRIDE
    )


def archive_of_signals(folder: Path) -> Wanted:
    beats = np.stack([sine(180, 1), -sine(180, 1), sine(180, 1)])
    owners = np.array([101, 101, 100])
    np.savez(folder / "beats.npz", x=beats, y=["N", "V", "L"], record_of=owners)
    inputs = cut_at(0) * np.array([1, -1, 1]).reshape(-1, 1, 1)
    return Wanted(inputs, [0, 1, 0], ["101", "101", "100"], data=STRIDE)


# --- Tables: age, lactate and whether it is absent, f, m, unknown ---------------------------------

ROWS: list[dict[str, Any]] = [
    {"mrn": "007", "age": 75, "lactate": 3.5, "sex": "f", "died": 1},
    {"mrn": "8", "age": 60, "lactate": None, "sex": "m", "died": 0},
    {"mrn": "9", "age": None, "lactate": 2.0, "sex": "f", "died": 0},  # nothing fills an age
    {"mrn": "8", "age": 45, "lactate": 1.25, "sex": None, "died": 1},
]
OF_ROWS = Wanted(
    [[1, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0], [-1, -0.5, 0, 0, 0, 1]],
    [1, 0, 1],
    ["007", "8", "8"],
    left_out=1,
)


def parquet(folder: Path) -> Wanted:
    rows = pd.DataFrame(ROWS).rename(columns={"lactate": "LACTAT_MMOL"})
    (folder / "export" / "deep").mkdir(parents=True)
    rows[:1].to_parquet(folder / "export" / "a.parquet")
    rows[1:].to_parquet(folder / "export" / "deep" / "b.parquet")
    return OF_ROWS


def arff(folder: Path) -> Wanted:
    head = (
        "@relation ward\n@attribute mrn string\n@attribute age numeric\n"
        "@attribute lactate numeric\n@attribute sex {f, m}\n@attribute died {0, 1}\n@data\n"
    )
    rows = [",".join("?" if v is None else str(v) for v in row.values()) for row in ROWS]
    (folder / "ward.arff").write_text(head + "\n".join(rows) + "\n")
    return OF_ROWS


def lines(folder: Path) -> Wanted:
    text = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    (folder / "ward.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return OF_ROWS


def survival(folder: Path) -> Wanted:
    """One patient is in no division, and one is another site's."""
    (folder / "brca.csv").write_text(
        "pid,age,T,E\na,75,300,1\nb,60,2000,0\nc,50,10,1\nd,45,400,0\n"
    )
    (folder / "train_test_split.csv").write_text(
        "pid,fold,fold2\nd,test,test_0\na,train,train_0\nb,train,train_1\n"
    )
    return Wanted([[1], [-1]], [[300, 1], [400, 0]], ["a", "d"], 2, ["train", "test"])


# --- Texts and sequences: 0 fills up, 1 is unknown ------------------------------------------------


def filled(length: int, *rows: Sequence[int]) -> NDArray[np.int64]:
    return np.array([[*row, *[0] * (length - len(row))] for row in rows])


def texts(folder: Path) -> Wanted:
    def token(word: str) -> int:
        digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
        return 2 + int.from_bytes(digest, "little") % 4096

    (folder / "notes.csv").write_text(
        'dialogue,section_header\n"Doctor: Any pain?",yes\nNo.,no\n', encoding="utf-8"
    )
    words = [["doctor", ":", "any", "pain", "?"], ["no", "."]]
    inputs = filled(256, *([token(word) for word in text] for text in words))
    return Wanted(inputs, [1, 0], ["0", "1"])


def fasta(folder: Path) -> Wanted:
    """The third has the letters of the first; the second has a letter that is none of the study."""
    letters = f">r1 first\n{'ACGT' * 7}\nacgt\n>r2\nAN\n>r3\n{'ACGT' * 8}\n"
    (folder / "reads.fasta.gz").write_bytes(gzip.compress(letters.encode()))
    (folder / "labels.csv").write_text("file,class,donor\nr2,no,y\nr3,yes,z\nr1,yes,x\n")
    return Wanted(filled(60, [2, 3, 4, 5] * 8, [2, 1]), [1, 0], ["x", "y"], left_out=1)


def molecules(folder: Path) -> Wanted:
    """Chlorine is one letter, and a bracket that the study does not name is one unknown token."""
    (folder / "compounds.csv").write_text("smiles,toxic\nClC(=O)O,1\n[Na]c1[nH],0\n")
    inputs = filled(80, [11, 2, 7, 9, 6, 8, 6], [1, 3, 10, 13])
    return Wanted(inputs, [1, 0], ["0", "1"])


# --- A reader of one's own ------------------------------------------------------------------------

READER = """
import tomllib

import numpy as np

from fedward.client.data.records import RawRecords, without_faulty
from fedward.client.data.targets import targets
from fedward.study.errors import DataError


def read(source, study, context):
    path = context.folder / source.settings["host_file"]
    rows = tomllib.loads(path.read_text())["rows"]
    for row, entry in enumerate(rows):
        if "age" not in entry:
            context.faults.add(DataError("has no age", todo="ask the ward"), row)
    count = len(rows)
    labels = targets(
        [[entry["died"] for entry in rows]], study.data, study.task,
        where=str(path), rows=range(count), faults=context.faults,
    )
    raw = RawRecords(
        inputs=np.array([[entry.get("age", 0)] for entry in rows], np.float32),
        labels=labels,
        patients=np.arange(count),
        names=np.array([entry["who"] for entry in rows]),
        rows=np.arange(count),
    )
    return without_faulty(raw, context.faults)
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages."""
    found = tmp_path / "site"
    found.mkdir()
    monkeypatch.syspath_prepend(str(found))
    yield found
    sys.modules.pop("ward_readers", None)


def installed(folder: Path) -> Wanted:
    """The package says what the page's pyproject.toml says."""
    (said,) = [block for block in BLOCKS if "entry-points" in block]
    (points,) = tomllib.loads(said)["project"]["entry-points"].items()
    about = folder / "site" / "ward_readers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-readers\nVersion: 1.0\n")
    entries = "".join(f"{name} = {where}\n" for name, where in points[1].items())
    (about / "entry_points.txt").write_text(f"[{points[0]}]\n{entries}")
    (folder / "site" / "ward_readers.py").write_text(READER)
    rows = [("x", 2.5, 0), ("y", 3.5, 1), ("x", 1.0, 1)]
    text = "".join(f'[[rows]]\nwho = "{w}"\nage = {a}\ndied = {d}\n' for w, a, d in rows)
    (folder / "pacs.toml").write_text(text)
    data = {"kind": "table", "features": {"age": {}}, "label": "died"}
    return Wanted([[2.5], [3.5], [1]], [0, 1, 1], ["x", "y", "x"], data=data)


# --- Electronic records: age, systolic pressure and whether it is absent --------------------------

OF_CHARTS = Wanted([[0, 1, 0], [-1, 0, 1]], [1, 0], ["1", "2"])


def fhir(folder: Path) -> Wanted:
    """A pressure of the last week before the index counts as little as one of the year before."""

    def pressure(value: float, at: str) -> dict[str, Any]:
        found = {"value": value, "system": UCUM, "code": "mm[Hg]"}
        return pulse(value, at, "Patient/1", code=coded("8480-6", LOINC), valueQuantity=found)

    (folder / "srv" / "export").mkdir(parents=True)
    first = [
        patient("1", birthDate="1960-01-01"),
        pressure(150, "2019-06-01"),
        pressure(200, "2019-12-30"),
        pressure(90, "2017-06-01"),
        stroke("2020-03-01", "Patient/1"),
    ]
    second = [patient("2", birthDate="1975-01-01"), stroke("2021-03-01", "Patient/2")]
    (folder / "srv" / "export" / "a.json").write_text(json.dumps(bundle(*first)))
    resources = "".join(f"{json.dumps(one)}\n" for one in second)
    (folder / "srv" / "export" / "b.ndjson.gz").write_bytes(gzip.compress(resources.encode()))
    return OF_CHARTS


def omop(folder: Path) -> Wanted:
    """The same patients."""
    rows = [
        "person values (2, 8532, 1975, 1, 1, null)",
        *(
            f"measurement values (null, 1, 3004249, '{at}', null, {value}, null, 8876, 0)"
            for value, at in ((150, "2019-06-01"), (200, "2019-12-30"), (90, "2017-06-01"))
        ),
        "condition_occurrence values (null, 1, 381316, '2020-03-01', null)",
        "condition_occurrence values (null, 2, 381316, '2021-03-01', null)",
    ]
    with sqlite3.connect(folder / "omop.sqlite") as database:
        born = "update person set year_of_birth = 1960 where person_id = 1;"
        database.executescript(SCHEMA + born + "".join(f"insert into {row};" for row in rows))
    database.close()
    (folder / "etc" / "fedward").mkdir(parents=True)
    address = folder / "etc" / "fedward" / "omop-address"
    address.write_text(f"sqlite:///{folder / 'omop.sqlite'}\n")
    address.chmod(0o600)
    return OF_CHARTS


# --- All of them ----------------------------------------------------------------------------------

WRITTEN: dict[str, Callable[[Path], Wanted]] = {
    "Images: dicom": dicom,
    "Images: folder": pictures,
    "Images: npz": archive_of_pictures,
    "Images: nifti": nifti,
    "Signals: wfdb": wfdb,
    "Signals: edf": edf,
    "Signals: signal-csv": tables_of_samples,
    "Signals: signal-npz": archive_of_signals,
    "Tables: parquet": parquet,
    "Tables: arff": arff,
    "Tables: jsonl": lines,
    "Tables: csv": survival,
    "Texts: csv": texts,
    "Sequences and molecules: fasta": fasta,
    "Sequences and molecules: csv": molecules,
    "Readers of your own: installed": installed,
    "Electronic records: fhir": fhir,
    "Electronic records: omop": omop,
}


def test_every_example_has_its_files() -> None:
    """Whoever writes a new example on the page adds a function here that writes its files."""
    assert list(EXAMPLES) == list(WRITTEN)
    studies = [tomllib.loads(block) for block in BLOCKS if of_a_study(block)]
    assert [study for study in studies if study not in [e.study for e in EXAMPLES.values()]] == []


def study_of(example: Example, changes: dict[str, Any]) -> Study:
    data = {**example.study.get("data", {}), **changes}
    model = {"name": MODELS.get(data["kind"], "linear")}
    return parse_study({**WHOLE, "model": model, **example.study, "data": data})


def test_the_example_of_statistics_is_of_the_same_files(tmp_path: Path) -> None:
    """It has no kind and no label: it stands for a part of the study of tables."""
    (said,) = [block for block in BLOCKS if "[data.statistics]" in block]
    example = EXAMPLES["Tables: parquet"]
    study = study_of(example, tomllib.loads(said)["data"])
    parquet(tmp_path)
    (tmp_path / "hospital.toml").write_text('name = "north"\n' + example.hospital)
    hospital = read_hospital(tmp_path / "hospital.toml")

    raw = read_with(hospital.data, study, context_of(hospital, tmp_path))

    assert raw.whole.tolist() == [[2], [0.5], [-1]]
    assert study.data.statistics is not None
    assert check(hospital, tmp_path, study).problems == []


@pytest.mark.parametrize("title", WRITTEN)
def test_an_example_reads_its_files(title: str, tmp_path: Path, site: Path) -> None:
    example, wanted = EXAMPLES[title], WRITTEN[title](tmp_path)
    text = example.hospital.replace('"/', f'"{tmp_path}/')  # what is at the root is in the folder
    name = "" if text.startswith("name = ") else 'name = "north"\n'
    (tmp_path / "hospital.toml").write_text(name + text, encoding="utf-8")
    hospital, study = read_hospital(tmp_path / "hospital.toml"), study_of(example, wanted.data)

    raw = read_with(hospital.data, study, context_of(hospital, tmp_path))
    assert raw.whole_labels.tolist() == wanted.labels
    assert raw.names.tolist() == wanted.names
    assert raw.whole.shape == (len(wanted.labels), *study.data.input_shape)
    expected = np.broadcast_to(wanted.inputs, raw.whole.shape)
    known = np.isfinite(expected)
    np.testing.assert_allclose(raw.whole[known], expected[known], atol=0.01)
    parts = assign(raw, study.data.parts, where="here").tolist()
    assert wanted.parts in (None, parts)

    found = check(hospital, tmp_path, study)
    assert found.problems == []
    count = len(wanted.labels)
    assert dict(found.facts)["records"] == (
        f"{count} can be used, 0 cannot, {wanted.left_out} left out"
    )
