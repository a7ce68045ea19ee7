"""EDF, EDF+ and BDF files: samples equal to pyedflib's, annotations, and hostile files named."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyedflib
import pytest

from fedward.client.data import decoded as decoding
from fedward.client.data import edf
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all, read_parts
from fedward.client.data.records import RawRecords
from fedward.client.data.sources import EdfSource
from fedward.client.hospital import read_hospital
from fedward.study.errors import DataError
from tests.client.data.conftest import SignalStudy

Read = Callable[..., RawRecords]
KINDS = {
    "edf": pyedflib.FILETYPE_EDF,
    "edf+": pyedflib.FILETYPE_EDFPLUS,
    "bdf": pyedflib.FILETYPE_BDF,
    "bdf+": pyedflib.FILETYPE_BDFPLUS,
}


def write(
    path: Path,
    kind: str = "edf+",
    rates: tuple[int, ...] = (100, 100),
    seconds: int = 4,
    marks: dict[float, str] | None = None,
    unit: str = "uV",
    channels: Sequence[str] = "abcdef",
) -> None:
    """A file with the channels a, b, ...: sines of 2, 3, ... Hz and 100 of the unit."""
    most = 32767 if kind.startswith("edf") else 8388607
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        writer = pyedflib.EdfWriter(str(path), len(rates), file_type=KINDS[kind])
        with writer:
            writer.setSignalHeaders(
                [
                    {
                        "label": channels[place],
                        "dimension": unit,
                        "sample_frequency": rate,
                        "physical_max": 200.0,
                        "physical_min": -200.0,
                        "digital_max": most,
                        "digital_min": -most - 1,
                        "transducer": "",
                        "prefilter": "",
                    }
                    for place, rate in enumerate(rates)
                ]
            )
            if kind.endswith("+"):
                writer.setPatientName("Erika Mustermann")
            writer.writeSamples(
                [
                    100 * np.sin(2 * np.pi * (2 + place) * np.arange(rate * seconds) / rate)
                    for place, rate in enumerate(rates)
                ]
            )
            for onset, text in (marks or {}).items():
                writer.writeAnnotation(onset, -1, text)


@pytest.fixture
def read(tmp_path: Path, signal_study: SignalStudy) -> Read:
    def reading(
        faults: ListedFaults | None = None,
        source: dict[str, Any] | None = None,
        **data: Any,  # noqa: ANN401
    ) -> RawRecords:
        found = EdfSource(format="edf", path=".", **{"labels": "labels.csv", **(source or {})})
        study = signal_study(**data)
        return read_all(found, study, tmp_path, *([] if faults is None else [faults]))

    return reading


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    table = tmp_path / "labels.csv"
    table.write_text("file,label,patient\nx.edf,yes,p\n")
    return table


@pytest.mark.parametrize("kind", list(KINDS))
def test_samples_are_pyedflib_s_own(kind: str, tmp_path: Path, labels: Path, read: Read) -> None:
    write(tmp_path / "x.edf", kind)
    with pyedflib.EdfReader(str(tmp_path / "x.edf")) as reader:
        own = np.stack([reader.readSignal(1), reader.readSignal(0)])

    raw = read(channels=["b", "a"], length=400)

    assert np.array_equal(raw.whole[0], own.astype(np.float32))
    assert np.abs(own).max() == pytest.approx(100, abs=0.1)


def test_channels_of_different_rates_come_to_one(tmp_path: Path, labels: Path, read: Read) -> None:
    write(tmp_path / "x.edf", rates=(50, 200), seconds=20)

    raw = read(channels=["a", "b"], length=2000)

    time = np.arange(2000) / 100
    for place in range(2):
        expected = 100 * np.sin(2 * np.pi * (2 + place) * time)
        assert np.abs(raw.whole[0, place] - expected)[200:-200].max() < 1.5


def test_a_piece_lies_around_each_annotation_and_no_other_text_is_told(
    tmp_path: Path, read: Read
) -> None:
    write(tmp_path / "x.edf", marks={1.0: "N", 2.5: "V", 3.0: "Mrs Mustermann awake"})

    raw = read(source={"labels": None}, classes=("N", "V"), cut={"by": "annotation", "before": 4})

    assert raw.whole_labels.tolist() == [0, 1]
    with pyedflib.EdfReader(str(tmp_path / "x.edf")) as reader:
        own = reader.readSignal(0).astype(np.float32)
    assert np.array_equal(raw.whole[:, 0], [own[96:104], own[246:254]])
    assert "Mustermann" not in repr(raw)


def test_files_are_read_through_hospital_toml_alone(
    tmp_path: Path, signal_study: SignalStudy
) -> None:
    rows = ["file,outcome,person,part"]
    for number in range(6):
        write(tmp_path / f"{number}.edf", "bdf" if number % 2 else "edf", rates=(100,))
        rows.append(f"{number}.edf,{number % 2},p{number // 2},{'train' if number < 4 else 'test'}")
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "hospital.toml").write_text(
        'name = "north"\n[data]\nformat = "edf"\npath = "."\nlabels = "t.csv"\n'
        'patient = "person"\ncolumns_are = { label = "outcome", EEG = "a" }\n'
    )
    study = signal_study(
        channels=["EEG"], units=["mV"], cut={"by": "sliding", "stride": 4}, parts={"by": "file"}
    )

    parts = read_parts(read_hospital(tmp_path / "hospital.toml"), study, tmp_path)

    assert {part: len(records) for part, records in parts.items()} == {
        "train": 4 * 99,
        "validation": 0,
        "test": 2 * 99,
    }
    assert len(parts["train"].patients.unique()) == 2
    assert float(parts["train"].whole.abs().max()) == pytest.approx(0.1, abs=0.001)


HOSTILE: list[tuple[int, bytes, str]] = [
    (236, b"99999999", "data records, which cannot be|its header says"),
    (236, b"-1      ", "-1 data records"),
    (244, b"0       ", "0 seconds cannot be"),
    (244, b"nan     ", "does not say the seconds"),
    (252, b"9999", "9999 signals"),
    (252, b"4096", "truncated"),
    (184, b"99999999", "header bytes"),
    (256 + 3 * 216, b"99999999", "samples in a data record"),
    (256 + 3 * 120, b"99999999", "impossible range of"),
    (256 + 3 * 128, b"-99999  ", "impossible range of"),
    (256 + 3 * 104, b"nan     ", "does not say the range of"),
    (0, b"PK", "no EDF or BDF file"),
    (192, b"EDF+D", "is interrupted"),
]


@pytest.mark.parametrize(("place", "content", "told"), HOSTILE)
def test_hostile_headers_are_named_faults(
    place: int, content: bytes, told: str, tmp_path: Path, labels: Path, read: Read
) -> None:
    write(tmp_path / "x.edf")
    file = bytearray((tmp_path / "x.edf").read_bytes())
    file[place : place + len(content)] = content
    (tmp_path / "x.edf").write_bytes(file)

    with pytest.raises(DataError, match=told) as refusal:
        read()
    assert "x.edf: " in str(refusal.value)
    assert "Mustermann" not in str(refusal.value)


@pytest.mark.parametrize("size", [0, 100, 256, 700, 1000, -1, -300])
def test_truncated_files_are_named_faults(
    size: int, tmp_path: Path, labels: Path, read: Read
) -> None:
    write(tmp_path / "x.edf")
    (tmp_path / "x.edf").write_bytes((tmp_path / "x.edf").read_bytes()[:size])

    with pytest.raises(DataError, match=r"x\.edf: .*(truncated|too short for a header)"):
        read()


FUZZ = """
import resource, sys
from pathlib import Path
import numpy as np
from fedward.client.data import decoded as decoding
from fedward.client.data import edf
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all
from fedward.client.data.sources import EdfSource
from fedward.study.errors import DataError
from fedward.study.study import parse_study
import pyedflib  # before memory is limited
import scipy.signal

folder = Path(sys.argv[1])
study = parse_study({
    "study": {"name": "s"}, "task": {"kind": "multiclass", "classes": ["N", "V"]},
    "model": {"name": "m"}, "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
    "data": {"kind": "signals", "channels": ["a"], "rate": 100, "length": 8,
             "cut": {"by": "annotation", "before": 4}},
    "aggregation": {"secure": False}, "participation": {"hospitals": 1},
})
whole = (folder / "x.edf").read_bytes()
rng = np.random.default_rng(2)
resource.setrlimit(resource.RLIMIT_DATA, (3 * 2**30, 3 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
counts = {"read": 0, "named": 0}
for turn in range(400):
    content = bytearray(whole)
    if turn % 5 == 0:
        content = content[: rng.integers(len(content))]
    for place in rng.integers(1024 if turn % 2 else len(content), size=rng.integers(1, 6)):
        if place < len(content):
            content[place] = rng.choice([*b" 0123456789-+.", rng.integers(256)])
    (folder / "x.edf").write_bytes(content)
    faults = ListedFaults()
    try:
        raw = read_all(EdfSource(format="edf", path="."), study, folder, faults)
        assert np.isfinite(raw.whole).all()
        counts["named" if faults.found else "read"] += 1
    except DataError:
        counts["named"] += 1
assert min(counts.values()) > 20, counts
"""


@pytest.mark.slow
def test_mutated_files_are_read_or_named_and_never_end_the_process(tmp_path: Path) -> None:
    write(tmp_path / "x.edf", marks={1.0: "N", 2.5: "V"})
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("cores", [1, 4])
def test_recordings_are_read_once_however_many_threads_want_their_pieces(
    cores: int, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyedflib refuses a file that is open already; large pieces are decoded by many threads."""
    monkeypatch.setattr(decoding, "_cores", lambda: cores)
    reads: list[object] = []
    plain = edf._samples

    def counted(*given: Any) -> Any:  # noqa: ANN401
        reads.append(given)
        return plain(*given)

    monkeypatch.setattr(edf, "_samples", counted)
    for number in range(3):
        write(tmp_path / f"{number}.edf", "edf", rates=(1000,), seconds=200)
    (tmp_path / "labels.csv").write_text("file,label\n0.edf,no\n1.edf,yes\n2.edf,no\n")

    raw = read(
        source={"labels": "labels.csv"},
        rate=1000,
        length=10_000,
        cut={"by": "sliding", "stride": 2000},
    )

    assert raw.whole.shape == (3 * 96, 1, 10_000)
    assert len(reads) == 3
