"""Signals in NumPy archives and CSV files: true counts, and broken ones named."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedward.client.data.faults import ListedFaults
from fedward.client.data.parts import assign
from fedward.client.data.reading import read_all, read_parts
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import SignalArchiveSource, SignalTableSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from tests.client.data.conftest import SignalStudy, shared

Read = Callable[..., RawRecords]
MITBIH = """
name = "north"
[data]
format = "signal-npz"
path = "{path}"
signals = "x"
labels = "y"
channels = ["MLII"]
rate = 180
patient = "patient"
columns_are = {{ patient = "record" }}
same_patient = [["201", "202"]]
"""


# --- Archives -------------------------------------------------------------------------------------


@pytest.fixture
def read(tmp_path: Path, signal_study: SignalStudy) -> Read:
    """Reads the archive `a.npz` of the channel `a`, after writing these entries to it."""

    def reading(
        entries: dict[str, Any] | None = None,
        faults: ListedFaults | None = None,
        source: dict[str, Any] | None = None,
        **data: Any,  # noqa: ANN401
    ) -> RawRecords:
        if entries is not None:
            np.savez(tmp_path / "a.npz", **entries)
        archive = SignalArchiveSource(
            format="signal-npz",
            path="a.npz",
            **{"channels": ("a",), "rate": 100.0, **(source or {})},
        )
        more = [] if faults is None else [faults]
        return read_all(archive, signal_study(**data), tmp_path, *more)

    return reading


def signals(count: int = 4, length: int = 8) -> dict[str, Any]:
    return {
        "signals": np.arange(count * length, dtype=np.float32).reshape(count, length),
        "labels": np.arange(count) % 2,
    }


@pytest.mark.slow
def test_mitbih_is_read_through_hospital_toml_alone(
    tmp_path: Path, signal_study: SignalStudy
) -> None:
    path = shared("mitbih") / "mitbih_beats.npz"
    (tmp_path / "hospital.toml").write_text(MITBIH.format(path=path))
    study = signal_study(classes=tuple("NSVFQ"), channels=["MLII"], rate=180, length=128)
    hospital = read_hospital(tmp_path / "hospital.toml")

    raw = read_all(hospital.data, study, tmp_path)

    assert np.bincount(raw.whole_labels).tolist() == [90592, 2781, 7235, 802, 8039]
    assert len(np.unique(raw.patients)) == 47
    with np.load(path, allow_pickle=False) as stored:
        assert np.array_equal(raw.whole[:, 0], stored["x"].astype(np.float32))
        beats = np.isin(stored["record"], [201, 202])
    assert len(set(assign(raw, study.data.parts, where="here")[beats])) == 1
    parts = read_parts(hospital, study, tmp_path)
    assert sum(len(records.patients.unique()) for records in parts.values()) == 47


# de Chazal, O'Dwyer and Reilly 2004; 201 and 202 are one patient, who is in both there.
DS1 = "101 106 108 109 112 114 115 116 118 119 122 124 201 203 205 207 208 209 215 220 223 230"
DS2 = "100 103 105 111 113 117 121 123 200 202 210 212 213 214 219 221 222 228 231 232 233 234"


def test_the_published_division_of_mitbih_has_its_counts(
    tmp_path: Path, signal_study: SignalStudy
) -> None:
    path = shared("mitbih") / "mitbih_beats.npz"
    divided = f"[data.parts]\ntrain = {DS1.split()}\ntest = {DS2.split()}\n"
    text = MITBIH.format(path=path).replace('same_patient = [["201", "202"]]\n', divided)
    (tmp_path / "hospital.toml").write_text(text)
    study = signal_study(
        classes=tuple("NSVFQ"), channels=["MLII"], rate=180, length=128, parts={"by": "file"}
    )

    parts = read_parts(read_hospital(tmp_path / "hospital.toml"), study, tmp_path)

    assert np.bincount(parts["train"].whole_labels).tolist() == [45847, 944, 3788, 414, 8]
    assert np.bincount(parts["test"].whole_labels).tolist() == [44239, 1837, 3220, 388, 7]


def test_class_values_choose_what_labels_mean(read: Read) -> None:
    raw = read(signals(), class_values=[[1], [0]])

    assert raw.whole_labels.tolist() == [1, 0, 1, 0]


def test_a_key_called_record_is_not_taken_for_a_word_by_mistake(read: Read) -> None:
    entries = {**signals(), "record": np.array([7, 7, 8, 8])}

    with pytest.raises(DataError, match="each record is a patient, and there is a key 'record'"):
        read(entries, source={"patient": "record"})
    raw = read(source={"patient": "who", "columns_are": {"who": "record"}})
    assert raw.names.tolist() == ["7", "7", "8", "8"]


@pytest.mark.parametrize(
    "owners",
    [
        np.array([np.nan, np.nan, 1, 1]),
        np.array(["NaT", "NaT", "2026-01-01", "2026-01-01"], dtype="datetime64[D]"),
    ],
)
def test_strangers_without_a_number_are_not_one_patient(owners: Any, read: Read) -> None:  # noqa: ANN401
    faults = ListedFaults()

    raw = read({**signals(), "who": owners}, faults, source={"patient": "who"})

    assert len(raw) == 2
    assert [row for row, _ in faults.found] == [0, 1]
    with pytest.raises(DataError, match="record 1 has no patient"):
        read(source={"patient": "who"})


def test_a_beat_s_rhythm_follows_from_its_own_patient_s_beats_alone(read: Read) -> None:
    entries = {**signals(8), "who": np.array([7, 7, 7, 8, 8, 8, 8, 9])}
    entries["sample"] = np.array([10, 30, 40, 50, 60, 70, 110, 120])
    source = {"patient": "who", "columns_are": {"mark": "sample"}}

    raw = read(entries, source=source, rhythm=True)

    assert raw.whole.shape == (8, 2, 8)
    assert np.array_equal(raw.whole[:, 0], entries["signals"])
    assert raw.whole[:, 1].tolist() == [[beat] * 8 for beat in (0, 1, 0, 0, 0, -2, 0, 0)]
    without = {key: value[3:] for key, value in entries.items()}
    assert np.array_equal(read(without, source=source, rhythm=True).whole, raw.whole[3:])
    source["patient"] = "record"  # each beat is a patient
    assert not read(entries, source=source, rhythm=True).whole[:, 1].any()


def test_other_marks_are_not_answered_from_what_was_decoded_before(read: Read) -> None:
    entries = {**signals(3), "who": np.zeros(3), "early": np.array([0, 1, 3]), "late": [0, 2, 3]}
    source = {"patient": "who"}

    found = [
        read(entries, source={**source, "columns_are": {"mark": key}}, rhythm=True).whole[1, 1, 0]
        for key in ("early", "late")
    ]

    assert found == [-1, 1]


@pytest.mark.parametrize("marks", [np.array(["1", "2", "3", "4"]), np.array([1, 2, np.nan, 3])])
def test_marks_that_are_no_times_are_named(marks: Any, read: Read) -> None:  # noqa: ANN401
    entries = {**signals(), "mark": marks}

    with pytest.raises(DataError, match="'mark' has no number for each signal's place"):
        read(entries, rhythm=True)
    with pytest.raises(DataError, match="mark"):
        read(signals(), rhythm=True)


@pytest.mark.parametrize(("shorter", "count"), [("refuse", 2), ("pad", 3)])
def test_long_signals_are_cut_and_keep_their_patient(shorter: str, count: int, read: Read) -> None:
    raw = read(signals(3, 20), cut={"by": "sliding", "stride": 8}, shorter=shorter, rate=100)

    assert len(raw) == 3 * count
    assert raw.patients.tolist() == sorted(list(range(3)) * count)
    assert raw.whole[count, 0].tolist() == list(range(20, 28))


def test_several_channels_are_chosen_and_resampled(read: Read) -> None:
    time = np.arange(400) / 200
    both = np.stack([np.sin(2 * np.pi * 3 * time), np.cos(2 * np.pi * 5 * time)])
    entries = {"signals": np.stack([both, 2 * both]), "labels": [0, 1]}

    raw = read(
        entries,
        source={"channels": ("I", "II"), "rate": 200.0, "columns_are": {"a": "II"}},
        length=200,
    )

    assert raw.whole.shape == (2, 1, 200)
    expected = np.cos(2 * np.pi * 5 * np.arange(200) / 100)
    assert np.abs(raw.whole[1, 0] - 2 * expected)[20:-20].max() < 0.02


def test_a_signal_with_a_gap_is_named_and_the_others_are_read(read: Read) -> None:
    entries = signals(300)
    entries["signals"][[5, 250], 3] = np.nan, np.inf

    with pytest.raises(DataError, match="record 6: samples are missing in channel 'a'"):
        read(entries)
    faults = ListedFaults()
    raw = read(faults=faults)
    assert [row for row, _ in faults.found] == [5, 250]
    assert (len(raw), raw.dropped) == (298, 2)
    assert raw.whole[5, 0].tolist() == entries["signals"][6].tolist()


def npy(shape: tuple[int, ...], content: bytes, kind: str = "<f4") -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"shape": shape, "fortran_order": False, "descr": kind}
    )
    return head.getvalue() + content


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (npy((10**9, 8), b""), "not what it holds"),
        (npy((10**18, 10**18), b""), "not what it holds"),
        (npy((4, 8), bytes(127)), "not what it holds"),
        (npy((1,), b"\x80\x04.", "|O"), "not what it holds"),
        (npy((4, 8), bytes(256), ">f8"), ""),
        (npy((4, 8), bytes(4 * 8 * 8), "<U2"), "type <U2"),
        (b"", "cannot be read"),
        (b"\x93NUMPY\x09\x00", "cannot be read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70000, "cannot be read"),
    ],
)
def test_hostile_entries_are_named(entry: bytes, told: str, tmp_path: Path, read: Read) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("signals.npy", entry)
        archive.writestr("labels.npy", npy((4,), bytes(32), "<i8"))

    if not told:  # another byte order is no fault
        assert read().whole.tolist() == np.zeros((4, 1, 8)).tolist()
        return
    with pytest.raises(DataError, match=told):
        read()


def test_a_zip_bomb_is_refused_before_it_swells(tmp_path: Path, read: Read) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("signals.npy", "w") as file:
            file.write(npy((2**26 + 2**20, 1), b""))
            for _ in range(65):
                file.write(bytes(2**22))
        archive.writestr("labels.npy", npy((4,), bytes(32), "<i8"))

    with pytest.raises(DataError, match="too many for an archive"):
        read()


def test_mutated_archives_are_read_or_named(tmp_path: Path, read: Read) -> None:
    np.savez_compressed(tmp_path / "a.npz", **signals(20))
    whole = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(3)
    named = 0
    for turn in range(200):
        content = bytearray(whole[: rng.integers(len(whole))] if turn % 4 == 0 else whole)
        for place in rng.integers(max(len(content), 1), size=3):
            if content:
                content[place] = rng.integers(256)
        (tmp_path / "a.npz").write_bytes(content)
        try:
            read(faults=ListedFaults())
        except DataError:
            named += 1
    assert named > 100


# --- CSV files ------------------------------------------------------------------------------------


@pytest.fixture
def read_tables(tmp_path: Path, signal_study: SignalStudy) -> Read:
    def reading(
        files: dict[str, str],
        faults: ListedFaults | None = None,
        source: dict[str, Any] | None = None,
        **data: Any,  # noqa: ANN401
    ) -> RawRecords:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        table = "".join(f"{name},{n % 2},p{n}\n" for n, name in enumerate(files))
        (tmp_path / "labels.csv").write_text("file,label,patient\n" + table)
        found = SignalTableSource(
            format="signal-csv", path=".", rate=100.0, labels="labels.csv", **(source or {})
        )
        more = [] if faults is None else [faults]
        return read_all(found, signal_study(**data), tmp_path, *more)

    return reading


def csv(values: list[object], end: str = "\n") -> str:
    return "t,a\n" + "\n".join(f"{n},{value}" for n, value in enumerate(values)) + end


def test_each_csv_file_is_a_recording(read_tables: Read) -> None:
    raw = read_tables(
        {"x.csv": csv(list(range(8))), "y.csv": csv(list(range(8, 16)), end="")},
        source={"patient": "patient"},
    )

    assert raw.whole[:, 0].tolist() == [list(range(8)), list(range(8, 16))]
    assert raw.whole_labels.tolist() == [0, 1]
    assert raw.names.tolist() == ["p0", "p1"]


def test_an_empty_cell_is_a_gap(read_tables: Read) -> None:
    files = {"x.csv": csv([1, 2, "", 4, 5, 6, 7, 8])}

    with pytest.raises(DataError, match=r"x\.csv: samples are missing in channel 'a'"):
        read_tables(files)
    assert read_tables(files, gaps="zero").whole[0, 0].tolist() == [1, 2, 0, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (csv([1, 2, "x", 4, 5, 6, 7, 8]), "table of numbers"),
        (csv([1, 2, "inf", 4, 5, 6, 7, 8]), "infinite"),
        (csv([1e300] * 8), "ordinary size"),
        (csv([1, 2]), "needs 8 samples, the recording has 2"),
        ("t,b\n" + "1,2\n" * 8, "has no channel 'a'"),
        ("a,a \n" + "1,2\n" * 8, "more than one channel 'a'"),
        ("", "table of numbers"),
        ("t,a\n" + '1,"2\n' * 8, "table of numbers|not as many"),
        ("t,a\n" + "1,2,3\n" * 8, "another number of columns"),
        ("\0" * 50, "."),
    ],
)
def test_broken_csv_files_are_named(text: str, told: str, read_tables: Read) -> None:
    with pytest.raises(DataError, match=told) as refusal:
        read_tables({"x.csv": text})
    assert "x.csv: " in str(refusal.value)
