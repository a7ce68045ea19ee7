"""Signals: records a second through the hospital's readers, beside the plain libraries.

Both sides read the same files, in turns, to float32 in memory; the plain side neither checks
headers nor counts patients.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedward.client.data.reading import read_all
from fedward.client.data.sources import SignalArchiveSource, WfdbSource
from fedward.study.study import Study, parse_study

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb

COPIES = 40


def rows(shared: Path, repeats: int) -> list[dict[str, Any]]:
    """A row for WFDB records and one for a NumPy archive; records a second, medians of repeats."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            _wfdb(shared / "wfdb_samples", Path(folder), repeats),
            _npz(shared / "mitbih" / "mitbih_beats.npz", repeats),
        ]


def _study(classes: list[str], **data: object) -> Study:
    return parse_study(
        {
            "study": {"name": "signals"},
            "task": {"kind": "multiclass", "classes": classes},
            "model": {"name": "any"},
            "data": {"kind": "signals", **data},
            "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
            "aggregation": {"secure": False},
            "participation": {"hospitals": 1},
        }
    )


def _wfdb(samples: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """The 15-lead record, so many times, all its leads."""
    header = (samples / "s0010_re.hea").read_text()
    names = [f"r{number}" for number in range(COPIES)]
    for name in names:
        for kind in ("dat", "xyz"):
            shutil.copy(samples / f"s0010_re.{kind}", folder / f"{name}.{kind}")
        (folder / f"{name}.hea").write_text(header.replace("s0010_re", name))
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{name},0\n" for name in names))
    own = wfdb.rdheader(str(folder / "r0"))
    study = _study(["a", "b"], channels=own.sig_name, rate=own.fs, length=own.sig_len)
    source = WfdbSource(format="wfdb", path=".", labels="labels.csv")

    def plain() -> np.ndarray[Any, Any]:
        found = np.empty((COPIES, own.n_sig, own.sig_len), dtype=np.float32)
        for place, name in enumerate(names):
            found[place] = wfdb.rdrecord(str(folder / name)).p_signal.T
        return found

    return _row("wfdb", lambda: read_all(source, study, folder).inputs, plain, repeats)


def _npz(path: Path, repeats: int) -> dict[str, Any]:
    """All beats of MIT-BIH."""
    study = _study(list("NSVFQ"), channels=["MLII"], rate=180, length=128, scale=[200])
    source = SignalArchiveSource(
        format="signal-npz",
        path=str(path),
        signals="x",
        labels="y",
        channels=("MLII",),
        rate=180.0,
        patient="patient",
        columns_are={"patient": "record"},
        same_patient=(("201", "202"),),
    )

    def plain() -> np.ndarray[Any, Any]:
        with np.load(path, allow_pickle=False) as stored:
            signals = stored["x"].astype(np.float32)[:, None] / np.float32(200)
            stored["y"].astype(np.int64), stored["record"].astype(str)
        return signals

    return _row("npz", lambda: read_all(source, study, path.parent).inputs, plain, repeats)


def _row(
    name: str,
    ours: Callable[[], np.ndarray[Any, Any]],
    plain: Callable[[], np.ndarray[Any, Any]],
    repeats: int,
) -> dict[str, Any]:
    assert np.array_equal(ours(), plain())  # and everything is loaded
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(repeats):
        for side, read in (("ours", ours), ("plain", plain)):
            began = time.perf_counter()
            records = len(read())
            times[side].append(records / (time.perf_counter() - began))
    medians = {side: statistics.median(each) for side, each in times.items()}
    return {
        "row": name,
        **medians,
        "ratio": medians["ours"] / medians["plain"],
        "spread": {side: (min(each), max(each)) for side, each in times.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shared", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    for row in rows(options.shared, options.repeats):
        print(
            f"{row['row']:6} ours {row['ours']:10.1f}/s  plain {row['plain']:10.1f}/s  "
            f"ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
