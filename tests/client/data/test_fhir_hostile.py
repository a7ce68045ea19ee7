"""Files made to break the reader of FHIR give a named error in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fedward.client.data.context import Context
from fedward.client.data.faults import ListedFaults
from fedward.client.data.fhir import read_fhir
from fedward.client.data.fhir_files import resources
from fedward.client.data.sources import FhirSource
from fedward.study.errors import DataError
from tests.client.data.test_fhir import bundle, patient, pulse, read, stroke, study_of

DEEP = 200_000
ROUNDS = 300
BAD = [
    ("a.json", b""),
    ("a.json", b"{"),
    ("a.json", b"[]"),
    ("a.json", b"null"),
    ("a.json", b"\xff\xfe{}"),
    ("a.json", b'{"resourceType": "Bundle", "entry": 1}'),
    ("a.json", b'{"resourceType": "Bundle", "entry": [1]}'),
    ("a.json", b'{"resourceType": "Bundle", "entry": [{"resource": []}]}'),
    ("a.json", b'{"resourceType": "Bundle", "type": "history", "entry": []}'),
    ("a.json", b'{"resourceType": "Bundle"} x'),
    ("a.json", b'{"resourceType": "Bundle", "x": NaN}'),
    ("a.json", b'{"resourceType": "Bundle", "x": ' + b"9" * 10_000 + b"}"),
    ("a.json", b'{"entry": [' + b"[" * DEEP),
    ("a.json", b'{"x":' * DEEP),
    ("a.json.gz", b"no gzip"),
    ("a.json.gz", gzip.compress(b'{"resourceType": "Bundle"}', mtime=0)[:-6]),
    ("a.ndjson", b"[" * DEEP),
    ("a.ndjson", b'{"resourceType": "Patient", "id": "x"}\n{"resour'),
    ("a.ndjson", b"1\n"),
]


@pytest.mark.parametrize(("name", "content"), BAD, ids=[f"{n}-{c[:30]!r}" for n, c in BAD])
def test_a_broken_file_is_named(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError) as caught:
        read_fhir(FhirSource(format="fhir", path="."), study_of(), Context(tmp_path))
    assert name in caught.value.line()


def test_broken_lines_are_listed_and_the_others_read(tmp_path: Path) -> None:
    good = [json.dumps(patient("a")), json.dumps(pulse(60, "2020-01-01", "Patient/a"))]
    (tmp_path / "a.ndjson").write_text("{\n" + good[0] + "\nx\n" + good[1] + "\n", "utf-8")
    faults = ListedFaults()
    raw = read_fhir(FhirSource(format="fhir", path="."), study_of(), Context(tmp_path, faults))

    assert [error.what.split(" cannot")[0] for _, error in faults.found] == ["line 1", "line 3"]
    assert (raw.whole.tolist(), raw.dropped) == ([[60]], 2)


def test_a_file_of_nothing_but_broken_lines_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"x\n" * 10**6)
    told: list[DataError] = []

    with pytest.raises(DataError, match="100 lines are broken"):
        list(resources(tmp_path / "a.ndjson", told.append))
    assert len(told) == 100


def test_mutations_of_a_good_file_never_break_anything_but_the_file(tmp_path: Path) -> None:
    good = json.dumps(
        bundle(patient(), pulse(60, "2020-01-01"), stroke("2021-01-01", recordedDate="2021-01-02"))
    ).encode()
    rng, study = random.Random(1), study_of(missing="drop")
    for _ in range(ROUNDS):
        content = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(content))
            match rng.randrange(3):
                case 0:
                    content[at] = rng.randrange(256)
                case 1:
                    del content[at : at + rng.randint(1, 40)]
                case _:
                    content[at:at] = rng.choice([b"{", b"[", b"null", b"-1e999", b'"', b"1"])
        (tmp_path / "a.json").write_bytes(content)
        faults = ListedFaults()
        raw = read_fhir(FhirSource(format="fhir", path="."), study, Context(tmp_path, faults))
        assert len(raw) <= 1


VALUES: list[Any] = [
    None,
    True,
    0,
    -1.5,
    1e308,
    "",
    "x",
    [],
    [1],
    [[]],
    {},
    {"coding": 1},
    {"coding": [1]},
]


def test_any_value_in_any_place_is_no_more_than_a_fault(tmp_path: Path) -> None:
    study = study_of(missing="drop")
    for resource in (patient(), pulse(60, "2020-01-01"), stroke("2021-01-01")):
        for key in [*resource, "component", "issued", "effectivePeriod", "recordedDate"]:
            for value in VALUES:
                faults = ListedFaults()
                entries = [patient("other"), resource | {key: value}]
                raw = read(tmp_path, *entries, study=study, faults=faults)
                assert len(raw) <= 2


_BOUNDED = """
import resource, sys
from pathlib import Path
from fedward.client.data.context import Context
from fedward.client.data.fhir import read_fhir
from fedward.client.data.sources import FhirSource
from fedward.study.errors import DataError
from tests.client.data.test_fhir import study_of
study = study_of({"n": {"fhir": {"resource": "Encounter", "take": "count"}}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
try:
    read_fhir(FhirSource(format="fhir", path="."), study, Context(Path(sys.argv[1])))
except DataError as error:
    print(error.line())
print("more:", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, "MiB")
"""


def bounded(folder: Path) -> tuple[str, int]:
    """What a reader of its own process says, and how much more memory it took, in MiB."""
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", _BOUNDED, str(folder)],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    said, _, more = done.stdout.rpartition("more: ")
    return said, int(more.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.json.gz", "a.ndjson.gz"])
def test_a_gzip_bomb_is_left_unpacked(name: str, tmp_path: Path) -> None:
    with gzip.open(tmp_path / name, "wb", compresslevel=9) as file:
        for _ in range(64):
            file.write(b'{"a":1}\n' * 2**18 if "nd" in name else b" " * 2**21)
    said, more = bounded(tmp_path)

    assert ("does not say what it is" if "nd" in name else "cannot be read as FHIR") in said
    assert more < 150


@pytest.mark.slow
def test_a_line_without_an_end_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b'{"x": "' + b"y" * 2**27)
    said, more = bounded(tmp_path)

    assert "a line of more than 16 MiB" in said
    assert more < 200


@pytest.mark.slow
def test_a_million_entries_are_read_one_by_one(tmp_path: Path) -> None:
    entry = '{"resource": {"resourceType": "Basic"}}'
    everybody = json.dumps({"resource": patient()})
    text = ", ".join([everybody, *[entry] * 10**6])
    (tmp_path / "a.json").write_text(
        f'{{"resourceType": "Bundle", "entry": [{text}]}}', encoding="utf-8"
    )
    said, more = bounded(tmp_path)

    assert said == ""
    assert more < 400
