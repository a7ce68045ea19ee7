"""Readers that come with other packages, and libraries that are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedward.study.errors import DataError, OptionError
from tests.client.data.conftest import Ward

READER = """
import numpy as np
from fedward.client.data.records import RawRecords
from fedward.study.errors import DataError


def read(source, study, context):
    count = source.settings["count"]
    if count > 100:
        raise DataError("too many", todo="ask for less", where=str(context.folder))
    names = np.array([f"p{number // 2}" for number in range(count)])
    return RawRecords(
        inputs=np.ones((count, *study.data.input_shape), dtype=source.settings.get("kind", "f4")),
        labels=np.arange(count) % 2,
        patients=np.arange(count) // source.settings.get("each", 2),
        names=names[source.settings.get("lost", 0) :],
        rows=np.arange(count),
    )
"""


@pytest.fixture
def package(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder on the path with an installed package that has a reader."""
    site = tmp_path_factory.mktemp("site")
    (site / "ward_readers.py").write_text(READER, encoding="utf-8")
    about = site / "ward_readers-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: ward-readers\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[fedward.readers]\nward = ward_readers:read\n")
    monkeypatch.syspath_prepend(str(site))
    yield site
    sys.modules.pop("ward_readers", None)


def test_an_installed_reader_reads(ward: Ward, package: Path) -> None:
    source = {
        "format": "installed",
        "reader": "ward",
        "patient": "record",
        "settings": {"count": 40},
    }

    raw = ward.read(source, {})

    assert raw.inputs.shape == (40, 3)
    found = ward.check(source, {})
    assert found.problems == []
    assert dict(found.facts)["patients"] == "20; the one with most records has 2"
    many = ward.check({**source, "settings": {"count": 101}}, {})
    assert "too many; ask for less" in many.problems[0]


@pytest.mark.parametrize("broken", [{"kind": "f8"}, {"lost": 1}])
def test_an_installed_reader_gives_what_the_study_needs(
    broken: dict[str, Any], ward: Ward, package: Path
) -> None:
    source = {"format": "installed", "reader": "ward", "settings": {"count": 40, **broken}}

    with pytest.raises(
        DataError, match=r"mend the reader: the study needs float32, \(records, 3\)"
    ):
        ward.read(source, {})


def test_one_name_is_one_patient_whatever_numbers_an_installed_reader_gives(
    ward: Ward, package: Path
) -> None:
    """Else parts, which follow from names, and steps of training would know other patients."""
    source = {"format": "installed", "reader": "ward", "settings": {"count": 40, "each": 1}}

    raw = ward.read(source, {})

    assert raw.patients.tolist() == [number // 2 for number in range(40)]


def test_a_reader_that_is_not_there_is_named_with_those_that_are(ward: Ward, package: Path) -> None:
    with pytest.raises(OptionError, match=r"no installed package has a reader 'none'.*there.*ward"):
        ward.read({"format": "installed", "reader": "none"}, {})


WITHOUT = """
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Missing())
from fedward.client.data.reading import read_all
from fedward.client.hospital import read_hospital
from fedward.study.errors import FedwardError
from fedward.study.study import read_study

try:
    here = Path({folder!r})
    raw = read_all(read_hospital(here / "hospital.toml").data, read_study(here / "s.toml"), here)
    print(len(raw), "records")
except FedwardError as error:
    print(error.line())
"""
STUDY = """
study.name = "tiny"
task = {{kind = "binary", classes = ["no", "yes"]}}
model = {{name = "mlp", hidden = [4]}}
training = {{rounds = 1, local_epochs = 1, learning_rate = 0.1}}
participation.hospitals = 3
data = {data}
"""
TABLE = '{kind = "table", label = "ill", features = {age = {}}}'
NOTES = '{kind = "text", text = "age", label = "ill", length = 4, buckets = 10}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "data", "library", "extra"),
    [
        ("t.parquet", TABLE, "pyarrow", "records"),
        ("t.csv", NOTES, "tokenizers", "text"),
        ("t.csv", TABLE, "pyarrow", None),
    ],
)
def test_a_missing_library_is_one_line_that_says_how_to_install_it(
    file: str, data: str, library: str, extra: str | None, tmp_path: Path
) -> None:
    (tmp_path / file).write_text("age,ill\n1,0\n2,1\n", encoding="utf-8")
    (tmp_path / "s.toml").write_text(STUDY.format(data=data), encoding="utf-8")
    (tmp_path / "hospital.toml").write_text(
        f'name = "north"\n[data]\nformat = "{file[2:]}"\npath = "{file}"\npatient = "record"\n',
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(library=library, folder=str(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    assert done.stderr == ""
    if extra is None:
        assert done.stdout == "2 records\n"
    else:
        assert f"{library}" in done.stdout
        assert f"pip install 'fedward[{extra}]'" in done.stdout
        assert done.stdout.count("\n") == 1
