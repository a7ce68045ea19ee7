"""A large CSV file, which is read in pieces on several cores, says what it says in one piece."""

from __future__ import annotations

import gzip
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas.io.parsers import readers

from fedward.client.data import csv_file
from fedward.client.data.cells import Wanted
from fedward.client.data.csv_file import read_csv
from fedward.study.errors import DataError

ROWS = 4_000
WANTED = Wanted(frozenset({"who", "note"}), frozenset({"age", "dose"}))


def lines(end: str = "\n") -> list[str]:
    """Quoted ends of lines, numbers that are missing, texts that look like numbers or nothing."""
    notes = ["007", f'"two{end}lines, {end} and ""more"""', "NA", "nan", "", "Größe"]
    return [
        f"p{row // 2},{'' if row % 7 == 0 else row / 8},{notes[row % 6]},{row},x{row}"
        for row in range(ROWS)
    ]


def open_files() -> str:
    """What this process has open; other threads may open and close meanwhile."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(os.readlink(file))
    return " ".join(found)


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Even a small file is read in pieces; how many such reads there were."""
    if not hasattr(readers, "_read_csv_parallel"):
        pytest.skip(f"pandas {pd.__version__} reads CSV files in one piece")
    monkeypatch.setattr(readers, "_PARALLEL_READ_MIN_BYTES", 1_000)
    monkeypatch.setattr(readers, "_PARALLEL_MIN_CHUNK_ROWS", 50)
    monkeypatch.setattr(readers, "_default_n_workers", lambda: 3)
    before, reads = readers._read_csv_parallel, []

    def parallel(path: str, settings: dict[str, object], workers: int) -> pd.DataFrame | None:
        found: pd.DataFrame | None = before(path, settings, workers)
        reads.append(0 if found is None else len(found))
        return found

    monkeypatch.setattr(readers, "_read_csv_parallel", parallel)
    return reads


def same(path: Path, text: str, **settings: object) -> None:
    """The same where no file can be in memory, which is then read in one piece."""
    path.write_text(text, encoding="utf-8", newline="")

    found = read_csv(path, WANTED, **settings)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(csv_file, "_OPEN_FILES", "/nowhere")
        whole = read_csv(path, WANTED, **settings)  # type: ignore[arg-type]

    assert found.columns == whole.columns
    assert found.size == whole.size == ROWS
    pd.testing.assert_frame_equal(found.frame, whole.frame)
    assert found.frame["note"][0] == "007"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_pieces_say_what_the_whole_says(
    mark: str, end: str, tmp_path: Path, in_pieces: list[int]
) -> None:
    head = "who,age,note,dose,more"

    same(tmp_path / "t.csv", mark + end.join([head, *lines(end), ""]))

    assert in_pieces


def test_plain_lines_are_read_in_pieces(tmp_path: Path, in_pieces: list[int]) -> None:
    plain = [line for line in lines() if '"' not in line]
    (tmp_path / "t.csv").write_text("\n".join(["who,age,note,dose,more", *plain]) + "\n")

    read_csv(tmp_path / "t.csv", WANTED)

    assert in_pieces == [len(plain)]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_without_a_line_of_names(mark: str, tmp_path: Path, in_pieces: list[int]) -> None:
    columns = ("who", "age", "note", "dose", "more")

    same(tmp_path / "t.csv", mark + "\n".join([*lines(), ""]), columns=columns, missing=("NA",))

    assert in_pieces


def test_a_number_that_is_none_deep_in_the_file(tmp_path: Path, in_pieces: list[int]) -> None:
    written = lines()
    written[3_500] = "p1,high,x,1,y"

    same(tmp_path / "t.csv", "\n".join(["who,age,note,dose,more", *written, ""]))

    assert read_csv(tmp_path / "t.csv", WANTED).frame["age"][3_500] == "high"
    assert in_pieces


@pytest.mark.usefixtures("in_pieces")
def test_a_line_of_another_length_deep_in_the_file(tmp_path: Path) -> None:
    written = [line for line in lines() if '"' not in line]
    written[2_500] += ",1,2"
    (tmp_path / "t.csv").write_text("\n".join(["who,age,note,dose,more", *written, ""]))

    with pytest.raises(DataError, match="cannot be read as a table") as told:
        read_csv(tmp_path / "t.csv", WANTED)
    assert str(tmp_path / "t.csv") in str(told.value)


@pytest.mark.usefixtures("in_pieces")
def test_what_is_no_utf_8_deep_in_the_file(tmp_path: Path) -> None:
    written = "\n".join(["who,age,note,dose,more", *lines(), ""]).encode("latin-1")
    (tmp_path / "t.csv").write_bytes(written)

    with pytest.raises(DataError, match="cannot be read as a table"):
        read_csv(tmp_path / "t.csv", WANTED)


def test_a_packed_file_too(tmp_path: Path, in_pieces: list[int]) -> None:
    text = "\n".join(["who,age,note,dose,more", *lines(), ""])
    same(tmp_path / "t.tar", text)  # which pandas would unpack, if it knew the name
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.encode()))
    before = len(in_pieces)

    found = read_csv(tmp_path / "t.csv.gz", WANTED)

    assert len(in_pieces) > before
    pd.testing.assert_frame_equal(found.frame, read_csv(tmp_path / "t.tar", WANTED).frame)


def test_a_file_that_is_cut_short_while_it_is_read(
    tmp_path: Path, in_pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [line for line in lines() if '"' not in line]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["who,age,note,dose,more", *plain]) + "\n")
    before = vars(readers)["_find_chunk_byte_offsets"]

    def cut(*given: object) -> list[int]:
        found: list[int] = before(*given)
        path.write_bytes(b"")
        return found

    monkeypatch.setattr(readers, "_find_chunk_byte_offsets", cut)

    assert read_csv(path, WANTED).size == len(plain)
    assert in_pieces == [len(plain)]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no list of open files here")
def test_nothing_of_it_stays_open(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("who,age,note,dose\np1,3,x,1\n")

    with csv_file._with_a_path(b"a") as path:
        assert "memfd:table" in open_files()
        assert Path(str(path)).read_bytes() == b"a"
    read_csv(tmp_path / "t.csv", WANTED)

    assert "memfd:table" not in open_files()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")

    with pytest.raises(DataError, match=r"t\.csv: is no file"):
        read_csv(tmp_path / "t.csv", WANTED)


def test_of_very_many_columns_some_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"c{place}" for place in range(5_000)) + "\n")

    with pytest.raises(DataError, match="c39 and 4960 more") as told:
        read_csv(tmp_path / "t.csv", WANTED).need("who")
    assert len(str(told.value)) < 1_000


@pytest.mark.parametrize("before", ["", "\r", "\n\r\n"])
def test_what_is_long_is_not_wide(before: str, tmp_path: Path) -> None:
    """Lines may end as on old machines, and begin late."""
    rows = "\r".join(f"p{row},{row}" for row in range(70_000))
    (tmp_path / "t.csv").write_text(f"{before}who,age\r{rows}\r", newline="")

    assert read_csv(tmp_path / "t.csv", WANTED).size == 70_000


@pytest.mark.parametrize("end", ["", "\n1,2\n", "\r1,2\r"])
def test_a_million_columns_are_refused_before_they_are_parsed(end: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(map(str, range(10**6))) + end, newline="")

    with pytest.raises(DataError, match="has 1000000 columns, of which 65536 can be read"):
        read_csv(tmp_path / "t.csv", WANTED)


@pytest.fixture(params=["pyarrow", "Python"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With what text is parsed; the light core has no PyArrow."""
    if request.param == "Python":
        monkeypatch.setattr(csv_file, "_text", lambda: object)
    else:
        pytest.importorskip("pyarrow")
    return str(request.param)


@pytest.mark.parametrize(
    "cells",
    [
        ["1"] * 999 + ["1.5"],
        ["1"] * 999 + [""],
        ["1"] * 999 + ["9" * 30],
        ["-1"] * 999 + [str(2**64 - 1)],
        ["1"] * 999 + ["1e3"],
        [""] * 999 + ["0.1"],
        [str(2**62 + 1)] * 3,
        ["007", "+1", "-0"],
    ],
    ids=lambda cells: f"{cells[0][:6]} to {cells[-1][:6]}",
)
def test_numbers_are_what_they_say(
    cells: list[str], tmp_path: Path, in_pieces: list[int], library: str
) -> None:
    (tmp_path / "t.csv").write_text("who,age\n" + "".join(f"p,{cell}\n" for cell in cells))

    found = read_csv(tmp_path / "t.csv", Wanted(frozenset({"who"}), frozenset({"age"})))

    assert found.frame["age"].dtype == float, (library, in_pieces)
    says = [float(cell) if cell else math.nan for cell in cells]
    assert found.frame["age"].tolist() == pytest.approx(says, rel=1e-15, nan_ok=True)


@pytest.mark.parametrize("last", ["high", "True", "nan", "1_0", "0x10", "1,5"])
@pytest.mark.parametrize("others", ["1", "0.5", "True"])
def test_one_that_is_no_number_leaves_all_as_written(
    others: str, last: str, tmp_path: Path, in_pieces: list[int], library: str
) -> None:
    cells = [others] * 999 + [last]
    (tmp_path / "t.csv").write_text("who\tage\n" + "".join(f"p\t{cell}\n" for cell in cells))

    wanted = Wanted(frozenset({"who"}), frozenset({"age"}))
    found = read_csv(tmp_path / "t.csv", wanted, delimiter="\t")

    assert found.frame["age"].tolist() == cells, (library, in_pieces)


@pytest.mark.parametrize("first", ["007", "1.50", "True", "nan", "", "p1", "2020-01-01", "1e5"])
@pytest.mark.parametrize("last", ["008", "x", "", "NA", "False", "None", "Größe"])
def test_text_is_as_written(
    first: str, last: str, tmp_path: Path, in_pieces: list[int], library: str
) -> None:
    cells = [first] * 600 + [last] * 400
    written = "age,who\n" + "".join(f"1,{cell}\n" for cell in cells)
    (tmp_path / "t.csv").write_text(written, encoding="utf-8")

    found = read_csv(tmp_path / "t.csv", Wanted(frozenset({"who"}), frozenset({"age"})))

    assert found.frame["who"].tolist() == cells, (library, in_pieces)
    coded = found.coded("who")
    assert coded.texts.tolist() == cells
    assert len(coded.different) == len(set(cells))


@pytest.mark.parametrize(
    ("mark", "cells"),
    [
        ("999", ["45 ", "999 "]),
        ("9", ["1", "09"]),
        ("1", ["+1", "2"]),
        ("-9", ["1"] * 500 + ["-9"] * 500),
        ("-9", ["-9.0", "1"]),
        ("-9", ["-9"] * 600 + ["0.5"] * 400),
        ("?", ["1"] * 999 + ["?"]),
    ],
)
def test_a_mark_is_missing_however_the_number_is_written(
    mark: str, cells: list[str], tmp_path: Path, in_pieces: list[int], library: str
) -> None:
    (tmp_path / "t.csv").write_text("who,age\n" + "".join(f"p,{cell}\n" for cell in cells))

    wanted = Wanted(frozenset({"who"}), frozenset({"age"}))
    found = read_csv(tmp_path / "t.csv", wanted, missing=(mark,))

    def says(cell: str) -> float:
        same = cell == mark or (mark != "?" and float(cell) == float(mark))
        return math.nan if same else float(cell)

    expected = pytest.approx([says(cell) for cell in cells], nan_ok=True)
    assert found.frame["age"].tolist() == expected, (library, in_pieces)


@pytest.mark.parametrize(("mark", "times"), [("NA", 1), ("nan", 1), ("inf", 1), ("-9", 2)])
def test_only_marks_that_are_numbers_make_a_table_be_parsed_twice(
    mark: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text(f"who,age,size\n1,2,3\n4,5.5,{mark}\n7,,9\n")
    parsed: list[str | bytes] = []
    plainly = csv_file._parsed

    def counted(file: str | bytes, settings: dict[str, Any]) -> pd.DataFrame:
        parsed.append(file)
        return plainly(file, settings)

    monkeypatch.setattr(csv_file, "_parsed", counted)
    wanted = Wanted(frozenset({"who"}), frozenset({"age", "size"}))
    found = read_csv(tmp_path / "t.csv", wanted, missing=(mark,)).frame

    assert found["age"].tolist() == pytest.approx([2, 5.5, math.nan], nan_ok=True)
    assert found["size"].tolist() == pytest.approx([3, math.nan, 9], nan_ok=True)
    assert len(parsed) == 1 + times  # the line of names is parsed before


@pytest.mark.parametrize("missing", [(), ("-1",), ("True",)])
@pytest.mark.parametrize("cells", [["True", ""], ["True", "False"], ["True"] * 600 + [""] * 400])
def test_yes_and_no_are_no_numbers(
    cells: list[str], missing: tuple[str, ...], tmp_path: Path, in_pieces: list[int], library: str
) -> None:
    (tmp_path / "t.csv").write_text("who,age\n" + "".join(f"p,{cell}\n" for cell in cells))

    wanted = Wanted(frozenset({"who"}), frozenset({"age"}))
    found = read_csv(tmp_path / "t.csv", wanted, missing=missing)

    if missing != ("True",) or "False" in cells:
        assert found.frame["age"].tolist() == cells, (library, in_pieces)
    else:
        assert found.missing("age").all()
