"""`fedward explain` as a user runs it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fedward.study.study import parse_study
from tests.cli.conftest import Fedward, study_values, write_table
from tests.clinic.made_run import write_run


@pytest.mark.slow
def test_explain_draws_a_picture_of_a_run_s_and_an_exported_model(
    fedward: Fedward, tmp_path: Path
) -> None:
    write_run(tmp_path / "run", parse_study(study_values()))
    write_table(tmp_path / "records.csv")
    assert fedward("export", "run", "--to", "onnx", "--out", "m.onnx").code == 0
    (tmp_path / "one.csv").write_text("age,size\n0.5,1.5\n-1,2\n", encoding="utf-8")
    for model, method in (("run", "integrated-gradients"), ("m.onnx", "occlusion")):
        out = f"{method}.png"
        said = fedward("explain", model, "one.csv", "--record", "2", "--out", out)
        assert (said.code, said.err) == (0, "")
        assert f", by {method}" in said.out
        assert "one.csv, record 2: benign " in said.out
        with Image.open(tmp_path / out) as picture:
            assert picture.format == "PNG"
        assert (tmp_path / out).stat().st_mode & 0o777 == 0o600
    again = fedward("explain", "run", "one.csv", "--out", "occlusion.png")
    assert "is there already" in again.only_error(2)
    for words in (
        ("run", "two.csv", "--out", "p.png"),
        ("run", "one.csv", "--out", "p.png", "--record", "3"),
        ("run", "one.csv", "--out", "p.png", "--target", "ill"),
        ("records.csv", "one.csv", "--out", "p.png"),
        ("nothing.onnx", "one.csv", "--out", "p.png"),
    ):
        assert fedward("explain", *words).only_error(2)
    (tmp_path / "other").mkdir()
    shutil.copy(tmp_path / "one.csv", tmp_path / "other")
    twice = fedward("explain", "run", "one.csv", "other/one.csv", "--out", "p.png")
    assert "one.csv: two files have one name" in twice.only_error(2)
    assert not (tmp_path / "p.png").exists()


@pytest.mark.slow
def test_a_hospital_s_own_model_takes_the_run_s_place(fedward: Fedward, tmp_path: Path) -> None:
    values = study_values()
    values["task"]["threshold"] = "max_accuracy"
    run = write_run(tmp_path / "run", parse_study(values))
    own = tmp_path / "personal-model.safetensors"
    with safe_open(run / "model.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["fedward"])
    del about["threshold"]
    save_file(
        load_file(run / "model.safetensors"),
        own,
        metadata={"fedward": json.dumps(about | {"run": "run-1"})},
    )
    (run / "model.safetensors").unlink()
    (tmp_path / "one.csv").write_text("age,size\n0.5,1.5\n", encoding="utf-8")

    explain = ("explain", "run", "one.csv", "--model", own, "--out")
    export = ("export", "run", "--to", "safetensors", "--model", own, "--out")

    for words in (explain, export):
        assert "only the aggregator knows it" in fedward(*words, "p.png").only_error(2)
        assert not (tmp_path / "p.png").exists()
        assert fedward(*words, words[0], "--threshold", "0.37").code == 0
    with safe_open(tmp_path / "export", framework="pt") as file:
        assert "0.37" in str(file.metadata())
