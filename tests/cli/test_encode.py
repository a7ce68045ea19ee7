"""`fedward encode`: codes of records are those that the model's own weights make of them."""

from __future__ import annotations

import csv
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedward.study.study import Study
from tests.cli.conftest import Fedward
from tests.clinic.made_run import write_run

StudyWith = Callable[[Mapping[str, object]], Study]
ROWS = "age,size\n60,1.5\n40,-2\n51,0\n"
SCALED = np.array([[1.0, 1.5], [-1.0, -2.0], [0.1, 0.0]])


def study_of(study_with: StudyWith, model: dict[str, Any]) -> Study:
    return study_with(
        {
            "task": {"kind": "reconstruction"},
            "model": model,
            "data": {
                "kind": "table",
                "label": [],
                "features": {"age": {"center": 50.0, "scale": 10.0}, "size": {}},
            },
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autoencoder", "vae"])
def test_a_row_for_each_record(
    name: str, study_with: StudyWith, fedward: Fedward, tmp_path: Path
) -> None:
    run = write_run(
        tmp_path / "run", study_of(study_with, {"name": name, "hidden": [5], "code": 3})
    )
    (tmp_path / "rows.csv").write_text(ROWS, "utf-8")
    out = tmp_path / "codes.csv"
    said = fedward("encode", str(run), str(tmp_path / "rows.csv"), "--out", str(out))

    assert (said.code, said.err) == (0, "")
    weights = load_file(run / "model.safetensors")
    before = np.maximum(SCALED @ weights["encoder.0.weight"].T + weights["encoder.0.bias"], 0)
    expected = (before @ weights["encoder.2.weight"].T + weights["encoder.2.bias"])[:, :3]
    head, *rows = csv.reader(out.read_text("utf-8").splitlines())
    assert head == ["record", "code_1", "code_2", "code_3"]
    assert [row[0] for row in rows] == [f"rows.csv, record {k}" for k in (1, 2, 3)]
    found = np.array([[float(value) for value in row[1:]] for row in rows])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.mark.slow
def test_a_model_without_codes_is_told_as_such(
    study_with: StudyWith, fedward: Fedward, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", study_with({"data.features": {"age": {}, "size": {}}}))
    (tmp_path / "rows.csv").write_text(ROWS, "utf-8")
    out = tmp_path / "codes.csv"
    said = fedward("encode", str(run), str(tmp_path / "rows.csv"), "--out", str(out))

    assert said.code == 2
    assert "makes no codes" in said.err
    assert len(said.err.splitlines()) == 1
    assert not out.exists()
