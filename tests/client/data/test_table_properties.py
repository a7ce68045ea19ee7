"""What holds for all tables: formats agree, and no patient is ever on two sides."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedward.client.data.parts import assign
from fedward.client.data.reading import read_all
from fedward.client.data.records import RawRecords
from fedward.client.hospital import HospitalFile
from fedward.study.parts import HashedParts
from fedward.study.study import Study
from tests.client.data.conftest import DNA, StudyWith

Row = tuple[str, float, str, int]
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
ORDINARY = NAMES.map(str.strip).filter(
    lambda name: name not in {"", "?", "NA", "NaN", "nan"} and not set(name) & {"\r", "\n", "\x85"}
)
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)
ROWS = st.lists(
    st.tuples(ORDINARY, NUMBERS, st.sampled_from("fm"), st.integers(0, 1)), min_size=1, max_size=12
)
COLUMNS = ("who", "age", "sex", "diagnosis")


def write(folder: Path, rows: list[Row]) -> None:
    """The same table in every format."""
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        written = csv.writer(file, quoting=csv.QUOTE_ALL)
        written.writerow(COLUMNS)
        written.writerows(rows)
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    (folder / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    pq.write_table(pa.Table.from_pylist(records), folder / "t.parquet")
    text = io.StringIO()
    text.write("@relation t\n@attribute who string\n@attribute age numeric\n")
    text.write("@attribute sex {f,m}\n@attribute diagnosis {0,1}\n@data\n")
    for who, age, sex, ill in rows:
        quoted = who.replace("\\", "\\\\").replace("'", "\\'")
        text.write(f"'{quoted}',{age!r},{sex},{ill}\n")
    (folder / "t.arff").write_bytes(text.getvalue().encode())


def read(folder: Path, study: Study, **source: Any) -> RawRecords:  # noqa: ANN401
    values = {"name": "n", "device": "cpu", "data": {"patient": "who", **source}}
    return read_all(HospitalFile.model_validate(values).data, study, folder)


def in_a_folder(rows: list[Row], study: Study) -> Mapping[str, RawRecords]:
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), rows)
        return {
            form: read(Path(name), study, format=form, path=f"t.{form}")
            for form in ("csv", "jsonl", "parquet", "arff")
        }


@given(ROWS)
def test_a_table_is_the_same_in_every_format(study_with: StudyWith, rows: list[Row]) -> None:
    found = in_a_folder(rows, study_with({}))

    ages = np.array([[(age - 55) / 10] for _, age, *_ in rows]).astype(np.float32)
    for raw in found.values():
        assert np.array_equal(raw.whole[:, :1], ages)
        assert raw.whole[:, 1].tolist() == [float(sex == "f") for *_, sex, _ in rows]
        assert raw.whole_labels.tolist() == [ill for *_, ill in rows]
        assert raw.names.tolist() == [who for who, *_ in rows]


@given(ROWS, st.integers(0, 2**32 - 1))
def test_no_patient_is_on_two_sides_in_any_format(
    study_with: StudyWith, rows: list[Row], seed: int
) -> None:
    rule = HashedParts(seed=seed)
    sides = [assign(raw, rule, where="") for raw in in_a_folder(rows, study_with({})).values()]

    for assigned in sides:
        assert assigned.tolist() == sides[0].tolist()
        of: dict[str, set[str]] = {}
        for (who, *_), part in zip(rows, assigned, strict=True):
            of.setdefault(who, set()).add(str(part))
        assert all(len(parts) == 1 for parts in of.values())


@given(ROWS, ROWS, st.randoms(use_true_random=False))
def test_rows_that_come_later_move_nobody(
    study_with: StudyWith, rows: list[Row], more: list[Row], random: Random
) -> None:
    shuffled = [*rows, *more]
    random.shuffle(shuffled)
    study, rule = study_with({}), HashedParts()

    def sides(of: list[Row]) -> dict[str, str]:
        raw = in_a_folder(of, study)["csv"]
        return dict(zip(raw.names.tolist(), assign(raw, rule, where="").tolist(), strict=True))

    before, after = sides(rows), sides(shuffled)

    assert {who: after[who] for who in before} == before


@given(
    st.dictionaries(
        st.text("abcXYZ0123_|.", min_size=1, max_size=6),
        st.text("ACGTNacgt-*", min_size=1, max_size=8),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 4),
)
def test_fasta_gives_back_what_was_written(
    study_with: StudyWith, sequences: dict[str, str], width: int
) -> None:
    study = study_with({"data": {**DNA, "sequence": "sequence"}})
    number = {letter: place for place, letter in enumerate("ACGT", start=2)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = ["file,ill,who", *(f"{key},0,{key}" for key in sequences)]
        (folder / "l.csv").write_text("\n".join(lines), "utf-8")
        with (folder / "s.fasta").open("w", encoding="utf-8") as file:
            for key, letters in sequences.items():
                wrapped = [letters[n : n + width] for n in range(0, len(letters), width)]
                file.write(f">{key} of a patient\n" + "\n".join(wrapped) + "\n")
        raw = read(folder, study, format="fasta", path="s.fasta", labels="l.csv")

    for row, letters in zip(raw.whole, sequences.values(), strict=True):
        expected = [number.get(letter.upper(), 1) for letter in letters]
        assert row.tolist() == expected + [0] * (8 - len(letters))


@pytest.mark.parametrize("bad", ["", "x", "inf", "1e30"])
@given(rows=ROWS, place=st.integers(0, 11))
def test_numbers_read_at_once_and_as_text_are_the_same(
    study_with: StudyWith, bad: str, rows: list[Row], place: int
) -> None:
    """One value that cannot be read at once makes all of them be read as text."""
    study = study_with({"data.missing": "drop"})
    at_once = in_a_folder(rows, study)["csv"]
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), rows)
        path = Path(name) / "t.csv"
        path.write_text(path.read_text("utf-8") + f'"z","{bad}","f","0"\n', "utf-8")
        from fedward.client.data.faults import ListedFaults

        values = {"format": "csv", "path": "t.csv", "patient": "who"}
        source = HospitalFile.model_validate({"name": "n", "data": values}).data
        with_bad = read_all(source, study, Path(name), ListedFaults())

    assert np.array_equal(at_once.whole, with_bad.whole)
    assert at_once.names.tolist() == with_bad.names.tolist()
