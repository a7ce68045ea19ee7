"""WFDB records: real ones equal to wfdb's own reading, and hostile ones named."""

from __future__ import annotations

import shutil
import socket
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb
from numpy.typing import NDArray

from fedward.client.checking import check
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all, read_parts
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import WfdbSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from tests.client.data.conftest import SignalStudy, Ward, shared

LABELS = "file,label,patient\n"
Read = Callable[..., RawRecords]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a reader of files opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def write(
    folder: Path,
    name: str,
    samples: NDArray[np.float64],
    marks: dict[int, str] | None = None,
    rate: float = 100,
    units: str = "mV",
    channels: Sequence[str] = "abcdefgh",
) -> None:
    """A record of format 16 with the channels a, b, ...; samples of shape (time, channels)."""
    count = samples.shape[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about wfdb
        wfdb.wrsamp(
            name,
            fs=rate,
            units=[units] * count,
            sig_name=list(channels[:count]),
            p_signal=samples,
            fmt=["16"] * count,
            adc_gain=[1000.0] * count,
            baseline=[0] * count,
            write_dir=str(folder),
            comments=["Name: Erika Mustermann"],
        )
        if marks:
            wfdb.wrann(
                name,
                "atr",
                np.array(list(marks)),
                symbol=list(marks.values()),
                write_dir=str(folder),
            )


def table(folder: Path, *rows: str) -> None:
    (folder / "labels.csv").write_text(LABELS + "\n".join(rows) + "\n")


@pytest.fixture
def read(tmp_path: Path, signal_study: SignalStudy) -> Read:
    def reading(
        faults: ListedFaults | None = None,
        source: dict[str, Any] | None = None,
        **data: Any,  # noqa: ANN401
    ) -> RawRecords:
        found = WfdbSource(format="wfdb", path=".", **{"labels": "labels.csv", **(source or {})})
        study = signal_study(**data)
        return read_all(found, study, tmp_path, *([] if faults is None else [faults]))

    return reading


def ramp(length: int = 30, channels: int = 1) -> NDArray[np.float64]:
    return np.arange(length * channels).reshape(length, channels) / 1000


# --- Real records ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("s0010_re", ["i", "v6", "vz"]),  # of 15, in two files
        ("a103l", ["PLETH", "II"]),
        ("041s", ["ABP", "III", "RESP"]),  # two segments
    ],
)
def test_samples_are_wfdb_s_own(
    name: str, channels: list[str], tmp_path: Path, signal_study: SignalStudy
) -> None:
    shutil.copytree(shared("wfdb_samples"), tmp_path / "d")
    (tmp_path / "d" / "labels.csv").write_text(f"file,label,patient\n{name},yes,p\n")
    own = wfdb.rdrecord(str(tmp_path / "d" / name))
    study = signal_study(channels=channels, rate=own.fs, length=own.sig_len)

    raw = read_all(WfdbSource(format="wfdb", path="d", labels="labels.csv"), study, tmp_path)

    expected = own.p_signal[:, [own.sig_name.index(channel) for channel in channels]]
    assert np.array_equal(raw.whole[0], expected.T.astype(np.float32))
    assert raw.whole_labels.tolist() == [1]


REAL = {  # rate, samples, channels
    "s0010_re": (1000, 38400, "i ii iii avr avl avf v1 v2 v3 v4 v5 v6 vx vy vz"),
    "a103l": (250, 82500, "II V PLETH"),
    "041s": (125, 2000, "III I V ABP PAP PLETH RESP"),
}


@pytest.mark.parametrize("name", REAL)
def test_all_channels_are_read_through_hospital_toml_alone(name: str, ward: Ward) -> None:
    rate, length, said = REAL[name]
    channels = said.split()
    shutil.copytree(shared("wfdb_samples"), ward.folder / "d")
    ward.write("d/labels.csv", f"file,label,who,part\n{name},malignant,p,train\n")
    source = {"format": "wfdb", "path": "d", "labels": "labels.csv", "patient": "who"}
    data = {"kind": "signals", "channels": channels, "rate": rate, "length": length}
    data["parts"] = {"by": "file"}

    found = ward.check(source, {"data": data, "model": {"name": "temporal_cnn"}})

    facts = dict(found.facts)
    assert found.problems == []
    assert facts["records"] == "1 can be used, 0 cannot, 0 left out"
    assert facts["recordings"].startswith(f"1, of which 0 cannot be opened; {rate} samples")
    assert facts["signals"].startswith(f"{len(channels)} channels of {length} samples, {rate} a s")


def test_all_samples_are_read_through_hospital_toml_alone(
    tmp_path: Path, signal_study: SignalStudy
) -> None:
    shutil.copytree(shared("wfdb_samples"), tmp_path / "d")
    rows = ["s0010_re,0,s0010,ii,train", "a103l,1,a103,II,train", "041s,1,041,I,test"]
    (tmp_path / "d" / "labels.csv").write_text(
        "file,label,patient,lead,part\n" + "\n".join(rows) + "\n"
    )
    leads = {"s0010_re": "ii", "a103l": "II", "041s": "I"}
    counts = {}
    for name, lead in leads.items():
        row = next(row for row in rows if row.startswith(name)).replace("test", "train")
        (tmp_path / "d" / "labels.csv").write_text(f"file,label,patient,lead,part\n{row}\n")
        (tmp_path / "hospital.toml").write_text(
            f'name = "north"\n[data]\nformat = "wfdb"\npath = "d"\nlabels = "labels.csv"\n'
            f'patient = "patient"\ncolumns_are = {{ a = "{lead}" }}\n'
        )
        study = signal_study(
            rate=125,
            length=1000,
            cut={"by": "sliding", "stride": 1000},
            band={"low": 0.5, "high": 40},
            parts={"by": "file"},
        )
        hospital = read_hospital(tmp_path / "hospital.toml")
        counts[name] = len(read_parts(hospital, study, tmp_path)["train"])
    # 38,400 samples at 1000 a second, 82,500 at 250, 2,000 at 125
    assert counts == {"s0010_re": 4, "a103l": 41, "041s": 2}


def test_segments_are_no_records_of_their_own(tmp_path: Path, signal_study: SignalStudy) -> None:
    shutil.copytree(shared("wfdb_samples"), tmp_path / "d")
    study = signal_study(channels=["III"], rate=125, cut={"by": "annotation", "before": 1})
    faults = ListedFaults()

    raw = read_all(WfdbSource(format="wfdb", path="d"), study, tmp_path, faults)

    assert len(raw) == 0
    told = [error.where.rpartition(" ")[2] for _, error in faults.found]
    assert told == ["041s", "a103l", "s0010_re"]


# --- Records that the test writes -----------------------------------------------------------------


def test_a_piece_lies_around_each_annotation_whose_symbol_means_a_class(
    tmp_path: Path, read: Read
) -> None:
    write(tmp_path, "100", ramp(), {5: "N", 12: "+", 20: "V"})

    raw = read(
        source={"labels": None, "annotations": "atr"},
        classes=("N", "V"),
        cut={"by": "annotation", "before": 3},
    )

    assert raw.whole_labels.tolist() == [0, 1]
    assert raw.whole[:, 0] * 1000 == pytest.approx(
        np.array([range(2, 10), range(17, 25)], dtype=float), abs=1e-3
    )
    assert raw.names.tolist() == ["100", "100"]  # a recording is one patient, not a beat
    assert ("annotations", "1 mean no class of the study and make no record") in raw.facts


@pytest.mark.parametrize("kept", [0, 2, 4, 5])
def test_annotations_that_are_cut_short_are_named(kept: int, tmp_path: Path, read: Read) -> None:
    """wfdb reads what there is."""
    write(tmp_path, "100", ramp(), {5: "N", 12: "N", 20: "V"})
    marks = tmp_path / "100.atr"
    marks.write_bytes(marks.read_bytes()[:kept])

    with pytest.raises(DataError, match=r"100: .*no end mark"):
        read(
            source={"labels": None, "annotations": "atr"},
            classes=("N", "V"),
            cut={"by": "annotation", "before": 3},
        )


def test_the_rhythm_is_of_the_annotations_that_mean_a_class(tmp_path: Path, read: Read) -> None:
    write(tmp_path, "100", ramp(), {5: "N", 8: "+", 9: "V", 17: "N", 20: "N"})
    write(tmp_path, "101", ramp(), {6: "N"})

    source = {"labels": None, "annotations": "atr"}
    cut = {"by": "annotation", "before": 3}
    raw = read(source=source, classes=("N", "V"), cut=cut, rhythm=True)

    assert raw.whole.shape == (5, 2, 8)
    beats = np.array([0, -1, np.log2(8 / 3), 0, 0])
    assert raw.whole[:, 1] == pytest.approx(np.repeat(beats[:, None], 8, axis=1))
    assert np.array_equal(raw.whole[:, :1], read(source=source, classes=("N", "V"), cut=cut).whole)


def test_a_whole_recording_has_no_rhythm(tmp_path: Path, read: Read) -> None:
    write(tmp_path, "100", ramp(), {5: "N"})
    table(tmp_path, "100,yes,p")

    with pytest.raises(DataError, match="has no rhythm of annotations"):
        read(rhythm=True)


def test_annotations_keep_their_time_at_another_rate(tmp_path: Path, read: Read) -> None:
    samples = np.zeros((400, 1))
    samples[200] = 1.0
    write(tmp_path, "100", samples, {200: "V"}, rate=200)

    raw = read(
        source={"labels": None, "annotations": "atr"},
        classes=("N", "V"),
        length=40,
        cut={"by": "annotation", "before": 15},
    )

    assert int(raw.whole[0, 0].argmax()) == 15


@pytest.mark.parametrize(("shorter", "count", "dropped"), [("drop", 1, 2), ("pad", 3, 0)])
def test_annotations_near_the_ends_are_refused_dropped_or_padded(
    shorter: str, count: int, dropped: int, tmp_path: Path, read: Read
) -> None:
    write(tmp_path, "100", ramp(), {1: "N", 15: "V", 28: "N"})
    how: dict[str, Any] = {
        "source": {"labels": None, "annotations": "atr"},
        "classes": ("N", "V"),
        "cut": {"by": "annotation", "before": 3},
    }

    with pytest.raises(DataError, match="100: the record from sample -2 needs 8 samples"):
        read(**how)
    raw = read(**how, shorter=shorter)

    assert (len(raw), raw.dropped) == (count, dropped)


def test_windows_of_one_recording_or_patient_are_never_on_two_sides(
    tmp_path: Path, signal_study: SignalStudy
) -> None:
    for number in range(30):
        write(tmp_path, f"r{number}", ramp(80))
    table(tmp_path, *(f"r{n},yes,p{n // 2}" for n in range(30)))
    study = signal_study(cut={"by": "sliding", "stride": 8})
    for patient in ('patient = "patient"', 'patient = "record"', ""):
        (tmp_path / "hospital.toml").write_text(
            f'name = "north"\n[data]\nformat = "wfdb"\npath = "."\nlabels = "labels.csv"\n{patient}'
        )
        parts = read_parts(read_hospital(tmp_path / "hospital.toml"), study, tmp_path)
        people = [set(records.patients.tolist()) for records in parts.values()]
        assert (
            sum(map(len, people))
            == len(set().union(*people))
            == (15 if "patient" in patient and "record" not in patient else 30)
        )
        assert sum(map(len, parts.values())) == 300


def test_several_names_of_one_patient_become_one(tmp_path: Path, read: Read) -> None:
    for name in ("200", "201", "202"):
        write(tmp_path, name, ramp())
    table(tmp_path, "200,no,200", "201,no,201", "202,yes,202")
    same = {"patient": "patient", "same_patient": (("201", "202"),)}

    assert read(source=same).patients.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match=r"same_patient names \(group 1\)") as refusal:
        read(source={"patient": "patient", "same_patient": (("201", "2O2"),)})
    assert "2O2" not in str(refusal.value)  # patients' names stay where they are


def test_a_table_of_patients_is_used(tmp_path: Path, read: Read) -> None:
    for name in ("200", "201"):
        write(tmp_path, name, ramp(), {10: "N"})
    (tmp_path / "patients.csv").write_text("record,who\n200,x\n201,x\n")
    source = {"labels": None, "annotations": "atr", "patients": "patients.csv", "patient": "who"}

    raw = read(source=source, classes=("N", "V"), cut={"by": "annotation", "before": 3})

    assert raw.names.tolist() == ["x", "x"]
    (tmp_path / "patients.csv").write_text("record,who\n200,x\n")
    with pytest.raises(DataError, match="recording '201' has no patient"):
        read(source=source, classes=("N", "V"), cut={"by": "annotation", "before": 3})


def test_units_are_converted_or_refused(tmp_path: Path, read: Read) -> None:
    write(tmp_path, "100", ramp(), units="uV")
    table(tmp_path, "100,yes,p")

    assert read(units=["mV"]).whole[0, 0] == pytest.approx(read().whole[0, 0] / 1000)
    with pytest.raises(DataError, match="is in 'uV', the study wants 'mmHg'"):
        read(units=["mmHg"])


def test_channels_are_found_by_the_hospital_s_names_in_the_study_s_order(
    tmp_path: Path, read: Read
) -> None:
    write(tmp_path, "100", ramp(channels=3))
    table(tmp_path, "100,yes,p")

    raw = read(channels=["II", "a"], source={"columns_are": {"II": "c"}})

    assert raw.whole[0, :, 0] * 1000 == pytest.approx([2.0, 0.0])
    with pytest.raises(DataError, match=r"100: has no channel 'V9'; .*found: a, b, c"):
        read(channels=["V9"])


def test_data_check_tells_what_the_signals_are(tmp_path: Path, signal_study: SignalStudy) -> None:
    samples = np.sin(np.arange(40) / 3)[:, None] * np.array([[1.0, 0.0]])
    write(tmp_path, "100", samples)
    write(tmp_path, "101", 20 * samples)
    write(tmp_path, "102", samples)
    (tmp_path / "102.dat").write_bytes(b"short")
    table(tmp_path, "100,yes,p", "101,no,q", "102,no,r")
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "wfdb"\npath = "."\nlabels = "labels.csv"\n'
        'patient = "patient"\n'
    )
    study = signal_study(
        channels=["a", "b"], cut={"by": "sliding", "stride": 8}, scale=[1, 1], units=["mV", "mV"]
    )

    found = check(read_hospital(tmp_path / "hospital.toml"), tmp_path, study)

    told = [f"{word} {text}".strip() for word, text in found.facts]
    assert any(line.startswith("records 10 can be used, 1 cannot") for line in told)
    assert "recordings 3, of which 1 cannot be opened; 100 samples a second" in told
    assert "signals 2 channels of 8 samples, 100 a second (0.08 s)" in told
    assert any("'a': from -20 to 19.91 mV; 5 records more than 10 scales" in line for line in told)
    assert any("'b': flat in 10 records, the first is record 1" in line for line in told)
    assert any(line.startswith("patients 2;") for line in told)
    assert any("102: file '102.dat' ends after 1 of 40 samples" in line for line in found.problems)
    assert not any("Mustermann" in line for line in [*told, *found.problems])


# --- Hostile records ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ("100 1 100 1000000000\n100.dat 16 200(0)/mV 16 0 0 0 0 a\n", "ends after 30 of 10"),
        ("100 1 100 30\n../../etc/passwd 16 200(0)/mV 16 0 0 0 0 a\n", "names no file"),
        ("100 1 100 30\n/etc/passwd 16 200(0)/mV 16 0 0 0 0 a\n", "names no file"),
        ("100 1 100 30\nhttp://x.org/a.dat 16 200(0)/mV 16 0 0 0 0 a\n", "names no file"),
        ("100 1 100 30\nlink.dat 16 200(0)/mV 16 0 0 0 0 a\n", "no such file: 'link.dat'"),
        ("100 1 100 30\nother.dat 16 200(0)/mV 16 0 0 0 0 a\n", "no such file"),
        ("100 1000000000 100 30\n100.dat 16 200(0)/mV 16 0 0 0 0 a\n", "describes 1"),
        ("100 1 100 30\n100.dat 16x1000000000 200(0)/mV 16 0 0 0 0 a\n", "ends after 0"),
        ("100 1 100 30\n100.dat 16:1000000000 200(0)/mV 16 0 0 0 0 a\n", "ends after"),
        ("100 1 100 30\n100.dat 16+1000000000 200(0)/mV 16 0 0 0 0 a\n", "cannot be"),
        ("100 1 100 30\n100.dat 516 200(0)/mV 16 0 0 0 0 a\n", "cannot be read"),
        ("100 1 100 1000000000\n100.dat 516 200(0)/mV 16 0 0 0 0 a\n", "cannot be in file"),
        ("100 1 100 30\n100.dat 99 200(0)/mV 16 0 0 0 0 a\n", "format 99 is unknown"),
        ("100 1 1e300 30\n100.dat 16 200(0)/mV 16 0 0 0 0 a\n", "no possible rate"),
        ("100 1 100 30\n100.dat 16 1e999(0)/mV 16 0 0 0 0 a\n", "a gain of 1e999"),
        ("100/2 1 100 2000000000\n100 1000000000\n100 1000000000\n", "."),
        ("100/2 1 100 2000000000\n~ 1000000000\n~ 1000000000\n", "do not have the channels"),
        ("100/2 1 100 2000000030\n101 30\n~ 2000000000\n", "too many"),
        ("100/2 1 100 60\n101 30\n101 29\n", "not as long"),
        ("100/2 1 100 59\n101 30\n101 29\n", "another length"),
        ("100/1 1 100 30\n100 30\n", "made of segments itself"),
        ("100/1 1 100 30\n../../x 30\n", "names no file"),
        ("", "no WFDB header"),
        ("#only a comment", "no WFDB header"),
        ("\0\xff\n", "."),
    ],
)
def test_hostile_headers_are_named_faults(
    header: str, told: str, tmp_path: Path, read: Read
) -> None:
    write(tmp_path, "100", ramp())
    write(tmp_path, "101", ramp())
    (tmp_path / "link.dat").symlink_to("/etc/passwd")
    table(tmp_path, "100,yes,p")
    (tmp_path / "100.hea").write_text(header, encoding="latin-1")

    with pytest.raises(DataError, match=told) as refusal:
        read()
    assert "100:" in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../100", "labels.csv: row 1 names a file outside the folder"),
        ("/etc/passwd", "labels.csv: row 1 names a file outside the folder"),
        ("..", "labels.csv: row 1 names a file outside the folder"),
        ("a//b", "a//b: is no name of a record"),
        ("http://x/100", "http://x/100: is no name of a record"),
        ("a b", "a b: is no name of a record"),
        ("nothing", "no such file: 'nothing.hea'"),
    ],
)
def test_a_table_names_only_what_is_in_the_folder(
    name: str, told: str, tmp_path: Path, read: Read
) -> None:
    (tmp_path / "labels.csv").write_text(f"file,label\n{name},yes\n")

    with pytest.raises(DataError, match=told):
        read()


def test_mutated_records_are_read_or_named(tmp_path: Path, read: Read) -> None:
    """Every outcome but a record or a named fault would come out of the reading."""
    write(tmp_path, "100", ramp(200, 2), {50: "N", 100: "V", 150: "N"})
    files = [tmp_path / f"100.{kind}" for kind in ("hea", "dat", "atr")]
    whole = {file: file.read_bytes() for file in files}
    rng = np.random.default_rng(1)
    outcomes = {"read": 0, "named": 0}
    for turn in range(250):
        file = files[turn % 3]
        content = bytearray(whole[file])
        match turn % 4:
            case 0:
                content = content[: rng.integers(len(content))]
            case 1:
                place = rng.integers(len(content) - 1)
                content[place], content[place + 1] = content[place + 1], content[place]
            case _:
                for place in rng.integers(len(content), size=rng.integers(1, 6)):
                    content[place] = rng.integers(256)
        file.write_bytes(content)
        faults = ListedFaults()
        try:
            raw = read(
                faults,
                {"labels": None, "annotations": "atr"},
                classes=("N", "V"),
                cut={"by": "annotation", "before": 3},
            )
            assert np.isfinite(raw.whole).all()
            outcomes["named" if faults.found else "read"] += 1
        except DataError:
            outcomes["named"] += 1
        file.write_bytes(whole[file])
    assert min(outcomes.values()) > 20
