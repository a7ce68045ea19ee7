"""Files that were cut, turned over or made to harm: one named error, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

CHILD = """
import json, random, resource, sys
from pathlib import Path
from fedward.client.data.faults import ListedFaults
from fedward.client.data.reading import read_all
from fedward.client.hospital import HospitalFile
from fedward.study.errors import FedwardError
from fedward.study.study import parse_study

folder, form, name, count, seed = Path(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:])
study = parse_study(json.loads((folder / "study.json").read_text()))
source = {"format": form, "path": "bad" + name, "patient": "who"}
if form == "fasta":
    source |= {"labels": "labels.csv"}
hospital = HospitalFile.model_validate({"name": "n", "data": source})
good = (folder / name).read_bytes()
(folder / ("bad" + name)).write_bytes(good)
assert len(read_all(hospital.data, study, folder)) == 20
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 2**31, now + 2**31))
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
draw = random.Random(seed)
told = {"read": 0, "refused": 0}
for _ in range(count):
    content = bytearray(good)
    match draw.randrange(4):
        case 0:
            content = content[: draw.randrange(len(content))]
        case 1:
            for _ in range(draw.randint(1, 8)):
                content[draw.randrange(len(content))] = draw.randrange(256)
        case 2:
            place, size = draw.randrange(len(content)), draw.choice([2, 4, 8])
            content[place : place + size] = content[place : place + size][::-1]
        case 3:
            place = draw.randrange(len(content))
            content[place : place + 8] = draw.choice([b"\\xff" * 8, b"\\x80" * 8, b"9" * 8])
    (folder / ("bad" + name)).write_bytes(content)
    for faults in (None, ListedFaults()):
        try:
            read_all(hospital.data, study, folder, *([faults] if faults else []))
            told["read"] += 1
        except FedwardError as error:
            assert "\\n" not in error.line() and len(error.line()) < 5000, error.line()
            told["refused"] += 1
print(json.dumps(told))
"""
STUDY = {
    "study": {"name": "tiny"},
    "task": {"kind": "binary", "classes": ["no", "yes"]},
    "model": {"name": "mlp", "hidden": [4]},
    "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
    "participation": {"hospitals": 3},
}
TABLE = {
    "kind": "table",
    "label": "ill",
    "features": {"age": {}, "sex": {"categories": ["f", "m"]}},
}
LETTERS = {
    "kind": "sequence",
    "sequence": "sequence",
    "label": "ill",
    "alphabet": list("ACGT"),
    "length": 40,
}
RECORDS = [
    {"who": f"p{number}", "age": 40.5 + number, "sex": "fm"[number % 2], "ill": number % 2}
    for number in range(20)
]


def write(folder: Path) -> None:
    rows = "".join(f"{r['who']},{r['age']},{r['sex']},{r['ill']}\n" for r in RECORDS)
    (folder / "t.csv").write_text(f"who,age,sex,ill\n{rows}")
    (folder / "t.csv.gz").write_bytes(gzip.compress((folder / "t.csv").read_bytes()))
    head = "@relation t\n@attribute who string\n@attribute age real\n@attribute sex {f,m}\n"
    (folder / "t.arff").write_text(f"{head}@attribute ill {{0,1}}\n@data\n{rows}")
    (folder / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in RECORDS))
    table = pa.Table.from_pylist(RECORDS)
    pq.write_table(table, folder / "t.parquet")
    letters = random.Random(1)
    sequences = [f">{r['who']}\n{''.join(letters.choices('ACGT', k=30))}\n" for r in RECORDS]
    (folder / "t.fasta").write_text("".join(sequences))
    labels = "".join(f"{r['who']},{r['ill']},{r['who']}\n" for r in RECORDS)
    (folder / "labels.csv").write_text(f"file,ill,who\n{labels}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("csv", "t.csv"),
        ("csv", "t.csv.gz"),
        ("arff", "t.arff"),
        ("jsonl", "t.jsonl"),
        ("parquet", "t.parquet"),
        ("fasta", "t.fasta"),
    ],
)
def test_every_file_is_read_or_refused_in_one_line(form: str, name: str, tmp_path: Path) -> None:
    write(tmp_path)
    study = {**STUDY, "data": LETTERS if form == "fasta" else TABLE}
    (tmp_path / "study.json").write_text(json.dumps(study))

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, str(tmp_path), form, name, "200", "7"],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )

    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["refused"] > 30
