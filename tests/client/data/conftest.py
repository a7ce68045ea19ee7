"""Hospitals with one file, small studies of any kind of data, and real files to be held against."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from fedward.client.checking import Found, check
from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.hospital import HospitalFile, read_hospital
from fedward.study.study import Study, parse_study

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # wfdb 4.3 uses what pandas 4 will take away
    import wfdb  # noqa: F401

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data"
SignalStudy = Callable[..., Study]


@pytest.fixture(scope="session")
def signal_study() -> SignalStudy:
    """A study of one channel `a`, 8 samples at 100 a second, two classes; keys of [data] change."""

    def study(classes: tuple[str, ...] = ("no", "yes"), **data: Any) -> Study:  # noqa: ANN401
        values: Mapping[str, Any] = {
            "study": {"name": "signals"},
            "task": {"kind": "multiclass", "classes": list(classes)},
            "model": {"name": "any"},
            "data": {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8, **data},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "aggregation": {"secure": False},
            "participation": {"hospitals": 1},
        }
        return parse_study(dict(values))

    return study


def shared(folder: str) -> Path:
    """A data set; the test is skipped where it is absent."""
    path = SHARED / folder
    if not path.is_dir():
        pytest.skip(f"{path} is not here")
    return path


StudyWith = Callable[[Mapping[str, object]], Study]
TEXT: dict[str, Any] = {"kind": "text", "text": "note", "length": 6, "label": "ill"}
DNA: dict[str, Any] = {
    "kind": "sequence",
    "sequence": "dna",
    "alphabet": ("A", "C", "G", "T"),
    "length": 8,
    "label": "ill",
}


class Ward:
    """A folder with `hospital.toml` and the files of a hospital."""

    def __init__(self, folder: Path, study_with: StudyWith) -> None:
        self.folder, self.study_with = folder, study_with

    def write(self, name: str, content: str | bytes) -> None:
        self.folder.joinpath(name).write_bytes(
            content.encode() if isinstance(content, str) else content
        )

    def hospital(self, source: Mapping[str, Any]) -> HospitalFile:
        """The hospital, from a real `hospital.toml` in the folder."""
        values = {"name": "north", "device": "cpu", "data": dict(source)}
        self.folder.joinpath("hospital.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
        return read_hospital(self.folder / "hospital.toml")

    def read(self, source: Mapping[str, Any], changes: Mapping[str, object]) -> RawRecords:
        return read_all(self.hospital(source).data, self.study_with(changes), self.folder)

    def check(self, source: Mapping[str, Any], changes: Mapping[str, object]) -> Found:
        return check(self.hospital(source), self.folder, self.study_with(changes))


@pytest.fixture
def ward(tmp_path: Path, study_with: StudyWith) -> Ward:
    return Ward(tmp_path, study_with)
