"""Whatever goes wrong is one line that names the thing and what to do, and an exit code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from PIL import Image

from tests.cli.conftest import Fedward, study_values, write_study, write_table

pytestmark = pytest.mark.slow  # every one is a process that may import torch

IMAGES: dict[str, dict[str, Any]] = {
    "model": {"name": "small_cnn", "channels": [4]},
    "data": {"kind": "images", "shape": [1, 8, 8], "parts": study_values()["data"]["parts"]},
}


def image_study(folder: Path, **tables: dict[str, Any]) -> Path:
    """A study of images; its table [data] replaces the other one."""
    values = {**study_values(), **IMAGES, **tables}
    path = folder / "images.toml"
    path.write_bytes(tomli_w.dumps(values).encode())
    return path


def pictures(folder: Path, count: int = 20) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        path = folder / ("benign", "malignant")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def test_a_study_file_that_is_not_there(fedward: Fedward) -> None:
    line = fedward("simulate", "absent [x] :bug:.toml").only_error()

    assert "absent [x] :bug:.toml" in line
    assert "no such study file" in line
    assert "check the path" in line


@pytest.mark.parametrize("command", ["simulate", "split"])
def test_a_data_set_that_is_not_there(fedward: Fedward, tmp_path: Path, command: str) -> None:
    study = write_study(tmp_path)

    line = fedward(command, study, "--data", "absent.csv", "--out", "hospitals").only_error()

    assert "absent.csv" in line
    assert "no such file or folder; check --data" in line.replace(": check", "; check")


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"training": {"lerning_rate": 0.1}}, ["training.lerning_rate", "mean learning_rate"]),
        ({"training": {"learning_rate": "fast"}}, ["training.learning_rate", '"fast"', "number"]),
        ({"participation": {"hospitals": 0}}, ["participation.hospitals", "0", "greater than"]),
        ({"model": {"name": "mpl"}}, ["model.name", "mpl", "mean mlp"]),
        ({"model": {"name": "mlp", "hiden": [4]}}, ["model.hiden", "mean hidden"]),
        ({"aggregation": {"strategy": "fedprox"}}, ["aggregation.proximal_mu", "needed"]),
    ],
    ids=["unknown key", "wrong type", "too small", "no such model", "its setting", "missing"],
)
def test_a_faulty_study_names_the_key_and_what_is_allowed(
    fedward: Fedward, tmp_path: Path, tables: dict[str, Any], words: list[str]
) -> None:
    path = write_study(tmp_path, **tables)
    line = fedward("study", "check", path).only_error()

    for word in [str(path), *words]:
        assert word in line


def test_a_study_that_is_not_toml_names_the_line(fedward: Fedward, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text("[study]\nname = tiny\n", encoding="utf-8")
    line = fedward("simulate", "study.toml").only_error()

    assert "study.toml" in line
    assert "line 2" in line


def test_data_that_is_not_there(fedward: Fedward, tmp_path: Path) -> None:
    study = write_study(tmp_path)
    line = fedward("simulate", study, "--data", "absent.csv").only_error()

    assert "absent.csv" in line
    assert "--data" in line
    assert not list(tmp_path.glob("runs/*"))


def test_a_data_set_that_cannot_be_fetched(fedward: Fedward, tmp_path: Path) -> None:
    url = "https://127.0.0.1:9/records.csv"
    download = {"url": url, "md5": "0" * 32, "licence": "CC0"}
    study = write_study(tmp_path, simulation={"download": download})
    said = fedward("simulate", study)

    assert said.code == 2
    (line,) = said.errors
    assert url in line
    assert "--data records.csv" in line
    assert "Traceback" not in said.err


def test_an_image_that_cannot_be_read(fedward: Fedward, tmp_path: Path) -> None:
    broken = pictures(tmp_path / "data")[5]
    broken.write_bytes(broken.read_bytes()[:40])
    line = fedward("simulate", image_study(tmp_path), "--data", "data").only_error()

    assert f"{broken.parent.name}/{broken.name}" in line
    assert "cannot be read as an image" in line
    assert "replace the file" in line


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (",malignant", ",unclear", ["'diagnosis'", "'unclear'", "record 3", "allowed: 0, benign"]),
        ("size", "siez", ["'size'", "siez"]),
    ],
    ids=["label outside the classes", "column that is missing"],
)
def test_a_table_that_does_not_fit_the_study(
    fedward: Fedward, tmp_path: Path, before: str, after: str, words: list[str]
) -> None:
    table = write_table(tmp_path / "records.csv")
    text = table.read_text("utf-8").replace(before, after, 1)
    table.write_text(text, encoding="utf-8")
    line = fedward("simulate", write_study(tmp_path), "--data", table).only_error()

    for word in [str(table), *words]:
        assert word in line


def test_a_table_with_a_value_that_is_no_number(fedward: Fedward, tmp_path: Path) -> None:
    table = write_table(tmp_path / "records.csv")
    lines = table.read_text("utf-8").splitlines()
    ward, _, size, diagnosis = lines[4].split(",")
    lines[4] = ",".join([ward, "NaN", size, diagnosis])
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    line = fedward("simulate", write_study(tmp_path), "--data", table).only_error()

    for word in (str(table), "row 4", "'age'", "missing"):
        assert word in line


def test_an_empty_hospital_is_named(fedward: Fedward, tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "berlin")
    pictures(tmp_path / "data" / "rome")
    (tmp_path / "data" / "oslo").mkdir()
    study = image_study(tmp_path, simulation={"split": "folders"})
    line = fedward("simulate", study, "--data", "data").only_error()

    assert "oslo" in line
    assert "no PNG or JPEG" in line


def test_hospitals_that_the_data_cannot_fill(fedward: Fedward, tmp_path: Path) -> None:
    table, study = write_table(tmp_path / "records.csv"), write_study(tmp_path)
    line = fedward("simulate", study, "--data", table, "--hospitals", "61").only_error()

    assert "60 patients cannot be divided among 61 hospitals" in line
    assert "fewer hospitals" in line


def test_hospitals_that_are_not_as_many_as_the_folders(fedward: Fedward, tmp_path: Path) -> None:
    pictures(tmp_path / "data" / "berlin")
    pictures(tmp_path / "data" / "oslo")
    study = image_study(tmp_path, simulation={"split": "folders"})
    line = fedward("split", study, "--data", "data", "--out", "o", "--hospitals", "4").only_error()

    assert "2 hospitals are there, the study wants 4" in line
    assert "--hospitals" in line


def test_a_hospital_that_fails_in_training_ends_the_run(fedward: Fedward, tmp_path: Path) -> None:
    table = write_table(tmp_path / "records.csv")
    study = write_study(tmp_path, training={"learning_rate": 1e30})
    said = fedward("simulate", study, "--data", table, "--workers", "1")

    assert said.code == 1
    (line,) = said.errors
    assert said.err.splitlines()[-1] == line
    assert "round 1: no hospital could train" in line
    assert "learning_rate" in line
    for word in ("Traceback", "Warning", "RuntimeError"):
        assert word not in said.err


@pytest.mark.parametrize("command", ["simulate", "split"])
def test_an_out_folder_that_is_not_empty_is_left_alone(
    fedward: Fedward, tmp_path: Path, command: str
) -> None:
    table, study = write_table(tmp_path / "records.csv"), write_study(tmp_path)
    (tmp_path / "out [x]").mkdir()
    (tmp_path / "out [x]" / "precious").write_text("results", encoding="utf-8")
    line = fedward(command, study, "--data", table, "--out", "out [x]").only_error()

    assert "out [x]" in line
    assert "not empty" in line
    assert "--out" in line
    assert [path.name for path in (tmp_path / "out [x]").iterdir()] == ["precious"]


def test_an_out_folder_that_is_a_file_is_left_alone(fedward: Fedward, tmp_path: Path) -> None:
    table, study = write_table(tmp_path / "records.csv"), write_study(tmp_path)
    (tmp_path / "taken").write_text("precious", encoding="utf-8")
    line = fedward("split", study, "--data", table, "--out", "taken").only_error()

    assert "taken" in line
    assert "--out" in line
    assert (tmp_path / "taken").read_text("utf-8") == "precious"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["simulate", "study.toml", "--sede", "3"], ["--sede", "--seed"]),
        (["simulate", "study.toml", "--seed", "x"], ["--seed", "'x'"]),
        (["simulate", "study.toml", "--hospitals", "0"], ["--hospitals", "0"]),
        (["simulate"], ["STUDY"]),
        (["split", "study.toml"], ["--out"]),
        (["simualte"], ["simualte"]),
        (["study", "digset", "study.toml"], ["digset"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_a_command_line_that_is_wrong(fedward: Fedward, words: list[str], named: list[str]) -> None:
    line = fedward(*words).only_error()

    for name in named:
        assert name in line


def test_debug_shows_where_an_error_arose(fedward: Fedward, tmp_path: Path) -> None:
    write_study(tmp_path, training={"lerning_rate": 0.1})
    said = fedward("--debug", "simulate", "tiny.toml")

    assert said.code != 0
    assert "Traceback (most recent call last)" in said.err
    assert "StudyError" in said.err
    assert "training.lerning_rate" in said.err.splitlines()[-1]


def test_a_seed_that_is_no_seed_is_one_line(fedward: Fedward, tmp_path: Path) -> None:
    said = fedward("simulate", write_study(tmp_path), "--seed", "99999999999999999999999")

    assert "--seed" in said.only_error()
