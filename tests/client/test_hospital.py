"""The hospital's own file: written and read again, and every fault named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.sources import BundledSource, CsvSource, FolderSource, NpzSource
from fedward.client.hospital import (
    Consortium,
    HospitalFile,
    Limits,
    Pretended,
    read_hospital,
    write_hospital,
)
from fedward.study.errors import DataError, HospitalError

SMALL: dict[str, object] = {"name": "north", "data": {"format": "csv", "path": "a.csv"}}

deltas = st.floats(1e-300, 0.999)
text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
name = text.map(lambda t: unicodedata.normalize("NFC", t).strip()).filter(
    lambda t: t != "" and t.isprintable()
)
rows = st.none() | st.just("rows.npy")
patient = st.none() | st.just("record") | text
data_name = st.text("abzAZ09é_.-", min_size=1, max_size=100)
sources = st.one_of(
    st.builds(
        CsvSource,
        format=st.just("csv"),
        name=data_name,
        path=text,
        columns=st.none() | st.lists(text, max_size=3).map(tuple),
        delimiter=st.sampled_from([",", ";", "\t", "|"]),
        missing=st.lists(text, max_size=3).map(tuple),
        patient=patient,
        rows=rows,
    ),
    st.builds(
        NpzSource, format=st.just("npz"), name=data_name, path=text, patient=patient, rows=rows
    ),
    st.builds(
        FolderSource,
        format=st.just("folder"),
        name=data_name,
        path=text,
        labels=st.just("l.csv"),
        patient=patient,
        rows=rows,
    ),
    st.builds(BundledSource, format=st.just("bundled"), name=st.just("breast-cancer"), rows=rows),
)
hospitals = st.builds(
    HospitalFile,
    name=name,
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:3", "mps"]),
    studies=text,
    state=text,
    data=sources,
    limits=st.builds(
        Limits,
        epsilon=st.none(),
        delta=st.none() | deltas,
        declared_patients=st.none() | st.integers(1, 10**9),
        records_at_once=st.integers(1, 10**6),
    )
    | st.builds(Limits, epsilon=st.floats(1e-6, 1e6), delta=deltas),
    consortium=st.none()
    | st.builds(
        Consortium,
        roster=text,
        coordinator=st.binary(min_size=32, max_size=32).map(bytes.hex),
        identity=text,
    ),
    simulation=st.none() | st.builds(Pretended, seed=st.integers(0, 2**63 - 1)),
)


@given(hospital=hospitals)
def test_a_hospital_written_and_read_again_is_the_same(
    hospital: HospitalFile, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("hospital") / "north" / "hospital.toml"

    write_hospital(hospital, path)

    assert read_hospital(path) == hospital
    assert [file.name for file in path.parent.iterdir()] == ["hospital.toml"]


def test_writing_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "hospital.toml"
    for name in ("north", "south"):
        write_hospital(HospitalFile.model_validate_json(_json(name)), path)

    assert read_hospital(path).name == "south"


def _json(name: str) -> str:
    return f'{{"name": "{name}", "data": {{"format": "csv", "path": "a.csv"}}}}'


def read(tmp_path: Path, values: dict[str, object]) -> HospitalFile:
    path = tmp_path / "hospital.toml"
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    return read_hospital(path)


def test_a_small_file_has_the_documented_defaults(tmp_path: Path) -> None:
    hospital = read(tmp_path, SMALL)

    assert (hospital.device, hospital.studies, hospital.state) == ("auto", "studies", "state")
    assert hospital.data.name == "data"
    assert hospital.limits == Limits(
        epsilon=None, delta=None, declared_patients=None, records_at_once=4096
    )
    assert hospital.consortium is None
    assert hospital.simulation is None


def test_a_member_of_a_consortium_needs_no_more_than_the_coordinator_s_key(tmp_path: Path) -> None:
    hospital = read(tmp_path, {**SMALL, "consortium": {"coordinator": "0f" * 32}})

    assert hospital.consortium == Consortium(
        roster="roster.json", coordinator="0f" * 32, identity="identity.pem"
    )


@pytest.mark.parametrize(
    ("change", "key", "says"),
    [
        ({"nmae": "a"}, "nmae", "did you mean name?"),
        ({"name": ""}, "name", ""),
        ({"name": "two\nlines"}, "name", ""),
        ({"name": " north"}, "name", "no space at the ends"),
        ({"name": "Cafe\u0301"}, "name", "NFC"),
        ({"name": "n" * 101}, "name", "1 to 100"),
        ({"name": 3}, "name", "string"),
        ({"device": "gpu"}, "device", "cuda"),
        ({"data": {"format": "xml", "path": "a"}}, "data.format", "csv"),
        ({"data": {"path": "a"}}, "data", "format"),
        ({"data": {"format": "csv"}}, "data.path", "needed"),
        ({"data": {"format": "csv", "path": 3}}, "data.path", "string"),
        ({"data": {"format": "csv", "path": "a", "delimeter": ";"}}, "data.delimeter", "delimiter"),
        (
            {"data": {"format": "csv", "path": "a", "delimiter": ";;"}},
            "data.delimiter",
            "at most 1",
        ),
        # Each file would be a patient of its own, and patients be split without a word.
        ({"data": {"format": "folder", "path": "a", "patient": "who"}}, "data", "labels"),
        ({"data": {"format": "bundled", "name": "iris"}}, "data.name", "breast-cancer"),
        ({"limits": {"epsilon": 0}}, "limits.epsilon", "greater than 0"),
        # A study that chooses the delta chooses how much it seems to cost.
        ({"limits": {"epsilon": 8.0}}, "limits", "delta beside epsilon"),
        ({"limits": {"epsilon": float("inf")}}, "limits.epsilon", "finite"),
        ({"limits": {"epsilon": "3"}}, "limits.epsilon", "number"),
        ({"limits": {"declared_patients": 1.5}}, "limits.declared_patients", "integer"),
        ({"limits": {"declared_patients": 0}}, "limits.declared_patients", "greater"),
        ({"limits": {"delta": 0}}, "limits.delta", "greater than 0"),
        ({"limits": {"delta": 1}}, "limits.delta", "less than 1"),
        ({"limits": {"records_at_once": 0}}, "limits.records_at_once", "greater"),
        # A count of records in the place of patients would promise far too much.
        ({"limits": {"declared_records": 5}}, "limits.declared_records", "declared_patients"),
        ({"data": {"format": "csv", "path": "a", "name": ""}}, "data.name", ""),
        ({"data": {"format": "csv", "path": "a", "name": "a b"}}, "data.name", ""),
        ({"data": {"format": "npz", "path": "a", "name": "x" * 101}}, "data.name", ""),
        ({"data": {"format": "folder", "path": "a", "name": "a\nb"}}, "data.name", ""),
        ({"limits": {"eps": 1}}, "limits.eps", "epsilon"),
        ({"consortium": {}}, "consortium.coordinator", "needed"),
        ({"consortium": {"coordinator": "0F" * 32}}, "consortium.coordinator", "0-9a-f"),
        ({"consortium": {"coordinator": "0f" * 31}}, "consortium.coordinator", "64"),
        (
            {"consortium": {"coordinator": "0f" * 32, "key": "k.pem"}},
            "consortium.key",
            "identity",
        ),
        ({"simulation": {"seed": -1}}, "simulation.seed", "greater"),
        ({"simulation": {"sed": 1}}, "simulation.sed", "did you mean seed?"),
    ],
)
def test_a_fault_is_named_with_file_and_key(
    change: dict[str, object], key: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(HospitalError) as caught:
        read(tmp_path, {**SMALL, **change})

    assert caught.value.key == key
    assert says in caught.value.allowed
    assert str(tmp_path / "hospital.toml") in caught.value.line()


@pytest.mark.parametrize("content", [b"name = ", b"\xff", None])
def test_a_file_that_cannot_be_read_is_named(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "hospital.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_hospital(path)
    assert caught.value.where == str(path)
