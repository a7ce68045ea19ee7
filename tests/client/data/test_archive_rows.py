"""Rows of archives' entries: the same numbers as NumPy's, in little memory, and checked first."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from fedward.client.data import archive_rows, archives
from fedward.client.data.archive_rows import DeflatedRows, HeldRows, StoredRows
from fedward.client.data.archives import opened
from fedward.client.data.context import Context
from fedward.client.data.reading import read_with
from fedward.client.data.sources import NpzSource, SignalArchiveSource
from fedward.client.data.stored import Stored
from fedward.study.errors import DataError
from fedward.study.study import Study, parse_study

Save = Callable[..., None]
KINDS: list[tuple[Save, type]] = [(np.savez, StoredRows), (np.savez_compressed, DeflatedRows)]


@pytest.fixture(autouse=True)
def all_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry is too large to be held, and blocks and states of zlib are many."""
    monkeypatch.setattr(archives, "_HELD", 0)
    monkeypatch.setattr(archive_rows, "_BLOCK", 1000)
    monkeypatch.setattr(archive_rows, "_BLOCKS", 2)
    monkeypatch.setattr(archive_rows, "_STATES", 3)
    monkeypatch.setattr(archive_rows, "_PACKED", 64)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    array=arrays.arrays(
        st.sampled_from(["u1", "<i2", ">i4", "<f4", "?", "<f8"]),
        arrays.array_shapes(min_dims=1, max_dims=4, max_side=17),
    ),
    spans=st.lists(st.tuples(st.integers(0, 17), st.integers(0, 17)), max_size=8),
    kind=st.sampled_from(KINDS),
    fortran=st.booleans(),
)
def test_the_rows_are_numpys_in_whatever_order_they_are_asked_for(
    tmp_path: Path,
    array: NDArray[Any],
    spans: list[tuple[int, int]],
    kind: tuple[Save, type],
    fortran: bool,
) -> None:
    save, of = kind
    path = tmp_path / "a.npz"
    save(path, before=np.arange(30), wanted=np.asfortranarray(array) if fortran else array)
    with opened(path) as archive:
        rows = archive.rows("wanted")
    with np.load(path) as stored:
        numpys = stored["wanted"]
    by_columns = numpys.ndim > 1 and np.isfortran(numpys)
    assert type(rows) is (HeldRows if by_columns else of)
    assert (rows.shape, rows.dtype) == (numpys.shape, numpys.dtype)
    rows.check()
    for first, last in [*spans, (0, len(numpys))]:
        some = rows.take(first, max(first, min(last, len(numpys)))) if first < len(numpys) else None
        if some is not None:
            np.testing.assert_array_equal(some, numpys[first : max(first, last)])


@pytest.mark.parametrize(("save", "of"), KINDS)
def test_several_threads_read_several_places(tmp_path: Path, save: Save, of: type) -> None:
    array = np.random.default_rng(0).integers(0, 9, (500, 40)).astype(np.int16)
    save(tmp_path / "a.npz", a=array)
    with opened(tmp_path / "a.npz") as archive:
        rows = archive.rows("a")
    assert type(rows) is of
    order = np.random.default_rng(1).permutation(500)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda row: rows.take(row, row + 1)[0], order.tolist()))
    np.testing.assert_array_equal(found, array[order])


def _checked(path: Path) -> None:
    with opened(path) as archive:
        archive.rows("a").check()


@pytest.mark.parametrize(("save", "of"), KINDS)
def test_a_changed_byte_is_seen_before_anything_is_used(
    tmp_path: Path, save: Save, of: type
) -> None:
    path = tmp_path / "a.npz"
    save(path, a=np.random.default_rng(0).integers(0, 9, (50, 40)).astype(np.int16))
    with zipfile.ZipFile(path) as listed:
        start, size = listed.infolist()[0].header_offset, listed.infolist()[0].compress_size
    content = bytearray(path.read_bytes())
    for at in range(start + 200, start + size, 37):
        changed = bytes(content[:at]) + bytes([content[at] ^ 1]) + bytes(content[at + 1 :])
        path.write_bytes(changed)
        with pytest.raises(DataError, match=r"entry 'a' (cannot be read|claims)"):
            _checked(path)


@pytest.mark.parametrize(("save", "of"), KINDS)
def test_a_file_that_is_cut_short_while_it_is_read_is_an_error(
    tmp_path: Path, save: Save, of: type
) -> None:
    path = tmp_path / "a.npz"
    save(path, a=np.random.default_rng(0).integers(0, 2**15, (500, 40)).astype(np.int16))
    with opened(path) as archive:
        rows = archive.rows("a")
    rows.take(0, 10)
    with path.open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(DataError, match="damaged, or changed meanwhile"):
        rows.take(480, 500)


def study(kind: str, task: str = "binary") -> Study:
    data: dict[str, Any] = {"kind": "images", "shape": [1, 8, 8], "resize": "fit"}
    if kind == "signals":
        data = {"kind": "signals", "channels": ["b"], "rate": 100, "length": 8}
        data |= {"cut": {"by": "sliding", "stride": 5}, "scale": [2.0]}
    return parse_study(
        {
            "study": {"name": "s"},
            "task": {"kind": task, "classes": ["no", "yes"]},
            "model": {"name": "any"},
            "data": data,
            "training": {"rounds": 1, "local_epochs": 1, "batch_size": 2, "learning_rate": 0.1},
            "participation": {"hospitals": 3},
        }
    )


def archive(folder: Path, kind: str, count: int = 40) -> NpzSource | SignalArchiveSource:
    rng, labels = np.random.default_rng(0), np.arange(count) % 2
    if kind == "signals":
        signals = rng.integers(-99, 99, (count, 2, 31)).astype(np.int16)
        np.savez_compressed(folder / "a.npz", signals=signals, labels=labels)
        return SignalArchiveSource(
            format="signal-npz", path="a.npz", channels=("a", "b"), rate=100, patient="record"
        )
    if kind == "masks":
        images, masks = rng.integers(0, 255, (count, 16, 12), dtype=np.uint8), None
        masks = rng.integers(0, 2, (count, 16, 12), dtype=np.uint8)
        np.savez_compressed(folder / "a.npz", images=images, masks=masks)
    else:
        parts: dict[str, Any] = {
            f"{part}_{what}": value[:: 1 if part == "train" else -2]
            for part in ("train", "test")
            for what, value in (
                ("images", rng.integers(0, 255, (count, 16, 12, 1), dtype=np.uint8)),
                ("labels", labels),
            )
        }
        np.savez_compressed(folder / "a.npz", **parts)
    return NpzSource(format="npz", path="a.npz", patient="record")


@pytest.mark.parametrize("kind", ["images", "signals", "masks"])
def test_records_are_those_of_archives_that_are_held(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = archive(tmp_path, kind)
    asked = study(kind, "segmentation" if kind == "masks" else "binary")
    large = read_with(source, asked, Context(tmp_path, cache=tmp_path / "cache"))
    again = read_with(source, asked, Context(tmp_path, cache=tmp_path / "cache"))
    monkeypatch.setattr(archives, "_HELD", 2**26)
    held = read_with(source, asked, Context(tmp_path, cache=tmp_path / "other"))
    assert len(held) == {"images": 60, "signals": 40 * 5, "masks": 40}[kind]
    for found in (large, again):
        np.testing.assert_array_equal(found.whole, held.whole)
        np.testing.assert_array_equal(found.labels, held.labels)
        np.testing.assert_array_equal(found.names, held.names)
    assert list((tmp_path / "cache").glob("*.rows"))
    assert not (tmp_path / "other").exists(), "what is small is not kept twice"


@pytest.mark.parametrize("kind", ["images", "signals"])
def test_a_damaged_archive_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    source = archive(tmp_path, kind)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[600] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    context = Context(tmp_path, cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(DataError, match="cannot be read"):
            read_with(source, study(kind), context)


@pytest.mark.parametrize("pieces", [1, 7, 64])
def test_pieces_of_signals_do_not_depend_on_how_many_are_read_at_once(
    tmp_path: Path, pieces: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedward.client.data import decoded, signal_arrays

    source = archive(tmp_path, "signals", count=23)
    whole = read_with(source, study("signals"), Context(tmp_path)).whole
    monkeypatch.setattr(decoded, "_ROWS", pieces)
    monkeypatch.setattr(decoded, "IN_MEMORY", 0)
    monkeypatch.setattr(signal_arrays, "_AT_ONCE", 31 * 2 * pieces)
    found = read_with(source, study("signals"), Context(tmp_path, cache=tmp_path / "cache"))
    assert isinstance(found.inputs, Stored)
    np.testing.assert_array_equal(found.whole, whole)
    with np.load(tmp_path / "a.npz") as stored:
        expected = [
            row[1, at : at + 8] / 2 for row in stored["signals"] for at in (0, 5, 10, 15, 20)
        ]
    np.testing.assert_allclose(whole[:, 0], expected, rtol=1e-6)


# --- Memory ---------------------------------------------------------------------------------------

CHILD = """
import json, re, sys
from pathlib import Path
from fedward.client.data import decoded
from fedward.client.data.context import Context
from fedward.client.data.reading import read_with
from fedward.client.hospital import read_hospital
from fedward.study.study import parse_study

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

folder = Path(sys.argv[1])
study = parse_study(json.loads((folder / "study.json").read_text()))
decoded.IN_MEMORY = 0
source = read_hospital(folder / "hospital.toml").data
context = Context(folder, cache=folder / "cache")
read_with(source.model_copy(update={"path": "little.npz"}), study, context)
before = peak()
found = read_with(source, study, context)
print(json.dumps({"grown": peak() - before, "records": len(found)}))
"""
MIB = 2**20


@pytest.mark.slow
@pytest.mark.parametrize("packed", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("kind", ["images", "signals"])
def test_a_large_archive_needs_little_memory(tmp_path: Path, kind: str, packed: int) -> None:
    """160 MiB of numbers: read to the end with a peak that is far below."""
    key, shape = (
        ("images", (1280, 256, 512)) if kind == "images" else ("signals", (10_240, 2, 4096))
    )
    dtype = np.dtype(np.uint8 if kind == "images" else np.int16)
    for name, count in (("little.npz", 4), ("a.npz", shape[0])):
        with zipfile.ZipFile(tmp_path / name, "w", packed, compresslevel=1) as file:
            with file.open(f"{key}.npy", "w", force_zip64=True) as entry:
                head = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape[1:])}
                np.lib.format.write_array_header_1_0(entry, head)
                for row in range(count):
                    entry.write(
                        np.resize(np.arange(row % 50, 250).astype(dtype), shape[1:]).tobytes()
                    )
            with file.open("labels.npy", "w") as entry:
                np.lib.format.write_array(entry, np.arange(count) % 2)
    contract = study(kind).model_dump(mode="json", exclude_none=True)
    if kind == "signals":
        contract["data"]["cut"] = {"by": "start"}
    (tmp_path / "study.json").write_text(json.dumps(contract))
    more = 'channels = ["a", "b"]\nrate = 100\n' if kind == "signals" else ""
    (tmp_path / "hospital.toml").write_text(
        f'name = "a"\n[data]\npath = "a.npz"\npatient = "record"\n'
        f'format = "{"npz" if kind == "images" else "signal-npz"}"\n{more}'
    )
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert not ran.returncode, ran.stderr
    told = json.loads(ran.stdout)
    assert told["records"] >= shape[0]
    assert told["grown"] < 100 * MIB, told["grown"] / MIB


@pytest.mark.parametrize(("kind", "key"), [("images", "train_labels"), ("signals", "labels")])
def test_labels_of_several_fields_are_named(tmp_path: Path, kind: str, key: str) -> None:
    source = archive(tmp_path, kind)
    with np.load(tmp_path / "a.npz") as stored:
        entries = dict(stored)
    entries[key] = np.zeros(len(entries[key]), dtype=[("a", "i4")])
    np.savez(tmp_path / "a.npz", **entries)

    with pytest.raises(DataError, match=rf"a\.npz: entry '{key}' has several fields"):
        read_with(source, study(kind), Context(tmp_path))
