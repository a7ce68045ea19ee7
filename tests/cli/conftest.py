"""The command as a user runs it: a real process, in an empty folder, without a terminal."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pytest
import tomli_w

COMMAND = Path(sys.executable).with_name("fedward")


class Said(NamedTuple):
    """What a process left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines that tell an error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    def only_error(self, code: int = 2) -> str:
        """The one line of a failure that had nothing else to say."""
        lines = self.err.splitlines()
        assert self.code == code, self.err
        assert len(lines) == 1, self.err
        assert lines == self.errors, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        return lines[0]


Fedward = Callable[..., Said]


@pytest.fixture
def fedward(tmp_path: Path) -> Fedward:
    """Run `fedward ...` in this test's own folder."""
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "PYTHONPATH", "LANG", "TMPDIR"}}
    fonts = matplotlib.get_cachedir()  # a new home would search the fonts anew, for seconds
    own = {"HOME": str(home), "MPLCONFIGDIR": fonts, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    environment = {**kept, **own}

    def run(*words: str | Path, **more: str) -> Said:
        done = subprocess.run(
            [COMMAND, *map(str, words)],
            cwd=tmp_path,
            env={**environment, **more},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


def study_values(**tables: dict[str, Any]) -> dict[str, Any]:
    """A study of two numbers; tables named here replace or extend these."""
    values: dict[str, dict[str, Any]] = {
        "study": {"name": "tiny"},
        "task": {"kind": "binary", "classes": ["benign", "malignant"]},
        "model": {"name": "mlp", "hidden": [4]},
        "data": {
            "kind": "table",
            "features": {"age": {}, "size": {}},
            "label": "diagnosis",
            "parts": {"by": "random", "train": 0.6, "validation": 0.2, "test": 0.2},
        },
        "training": {"rounds": 2, "local_epochs": 1, "batch_size": 8, "learning_rate": 0.3},
        "participation": {"hospitals": 3},
    }
    for name, table in tables.items():
        values[name] = {**values.get(name, {}), **table}
    if "privacy" in values and values["data"]["parts"]["by"] == "random":
        values["data"]["parts"]["by"] = "hash"
    return values


def write_study(folder: Path, **tables: dict[str, Any]) -> Path:
    """A study file."""
    path = folder / "tiny.toml"
    path.write_bytes(tomli_w.dumps(study_values(**tables)).encode())
    return path


WARDS = ("Ward [a]", "Ward [/b]", "Ward :c:")
"""As people name things."""


def write_table(path: Path, count: int = 60, *, seed: int = 1) -> Path:
    """A table of records, a third of them from each ward."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(["ward", "age", "size", "diagnosis"])
        for number in range(count):
            sick = number // 2 % 2
            age, size = rng.normal(size=2) + sick
            table.writerow([WARDS[number % 3], age, size, ("benign", "malignant")[sick]])
    return path
