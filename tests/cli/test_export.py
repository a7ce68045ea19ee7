"""`fedward export` as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedward.study.study import parse_study
from tests.cli.conftest import Fedward, study_values, write_table
from tests.clinic.made_run import write_hospitals, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    study = parse_study(study_values(simulation={"split": "iid"}))
    folder = write_run(tmp_path / "run", study)
    write_hospitals(folder, study, write_table(tmp_path / "records.csv"))
    return folder


@pytest.mark.slow
def test_export_says_how_the_file_was_tried(fedward: Fedward, run: Path, tmp_path: Path) -> None:
    said = fedward("export", run, "--to", "onnx", "--out", "model.onnx")
    assert (said.code, said.err) == (0, "")
    assert "records: outputs differ by at most" in said.out
    assert "takes batch x 2" in said.out
    again = fedward("export", run, "--to", "onnx", "--out", "model.onnx")
    assert "is there already" in again.only_error(2)
    said = fedward("export", run, "--to", "onnx", "--quantize", "int8", "--out", "small.onnx")
    assert (said.code, said.err) == (0, "")
    assert "AUC on test: " in said.out
    assert " -> " in said.out
    assert fedward("export", run, "--to", "pickle", "--out", "m").only_error(2)
    (tmp_path / "run" / "hospitals").rename(tmp_path / "elsewhere")
    said = fedward("export", run, "--to", "safetensors", "--out", "m.safetensors")
    assert said.code == 0
    assert "random numbers" in said.err
    assert "random inputs: outputs differ by at most 0.0e+00" in said.out
    assert "give --data" in fedward(
        "export", run, "--to", "safetensors", "--prune", "0.5", "--out", "p"
    ).only_error(2)
    assert not (tmp_path / "p").exists()
