"""Records a second out of tables, beside plain pandas on the same files.

    python benchmarks/data_tables.py [--json] [--quick]

Ours is a hospital's whole reading, with every check; the peer is `pandas.read_csv` or
`read_parquet` and the same float32 inputs, class numbers and patients, without any check. In turns,
processor seconds, so that other work on the machine counts little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from report import Report, arguments, row, show

from fedward.client.data.reading import read_all
from fedward.client.hospital import HospitalFile
from fedward.study.study import Study, parse_study

PACKAGES = ("fedward", "pandas", "pyarrow", "numpy")
FEATURES = [f"f{number}" for number in range(20)]
REPEATS = 9


def tables(rows: int, *, repeats: int = REPEATS) -> Report:
    """CSV and Parquet of so many rows, 20 numbers and a category each."""
    report, study = Report("data_tables"), _study()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write(folder, rows)
        for form in ("csv", "parquet"):
            source = {"format": form, "path": f"t.{form}", "patient": "who"}
            data = HospitalFile.model_validate({"name": "n", "data": source}).data
            sides = {
                "ours": lambda data=data: read_all(data, study, folder).inputs,
                "peer": lambda form=form: _plain(folder, form),
            }
            report.checks[form] = bool(np.array_equal(sides["ours"](), sides["peer"]()))
            took: dict[str, list[float]] = {"ours": [], "peer": []}
            for turn in range(repeats):
                for side in sorted(sides, reverse=bool(turn % 2)):
                    took[side].append(rows / _seconds(sides[side]))
            report.rows.append(
                row(form, took["ours"], took["peer"], unit="records/s", peer_name="plain pandas")
            )
    return report


def _seconds(what: Callable[[], object]) -> float:
    started = time.process_time()
    what()
    return time.process_time() - started


def _plain(folder: Path, form: str) -> NDArray[np.float32]:
    path = folder / f"t.{form}"
    frame = pd.read_csv(path) if form == "csv" else pd.read_parquet(path)
    inputs = np.empty((len(frame), 22), np.float32)
    inputs[:, :20] = (frame[FEATURES].to_numpy() - 1.0) / 2.0
    inputs[:, 20], inputs[:, 21] = frame["sex"] == "f", frame["sex"] == "m"
    frame["ill"].to_numpy()
    pd.factorize(frame["who"])
    return inputs


def _write(folder: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(rows, 20)).round(4), columns=FEATURES)
    frame["sex"], frame["ill"] = rng.choice(["f", "m"], rows), rng.integers(0, 2, rows)
    frame["who"] = [f"p{number // 2}" for number in range(rows)]
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")


def _study() -> Study:
    numbers = {name: {"center": 1.0, "scale": 2.0} for name in FEATURES}
    return parse_study({
        "study": {"name": "tables"},
        "task": {"kind": "binary", "classes": ("no", "yes")},
        "model": {"name": "mlp", "hidden": (4,)},
        "data": {
            "kind": "table",
            "label": "ill",
            "features": {**numbers, "sex": {"categories": ("f", "m")}},
        },
        "training": {"rounds": 1, "local_epochs": 1, "learning_rate": 0.1},
        "participation": {"hospitals": 3},
    })  # fmt: skip


def main() -> None:
    options = arguments(__doc__ or "", timed=False).parse_args()
    report = tables(1_000, repeats=2) if options.quick else tables(200_000)
    show(report, packages=PACKAGES, as_json=options.json)


if __name__ == "__main__":
    main()
