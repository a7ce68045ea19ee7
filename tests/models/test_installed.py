"""Models that come with other packages, in processes of their own.

One package is built and installed by pip; of the others there is what pip leaves of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from fedward.models.installed import installed
from fedward.models.registry import FAMILIES

MODEL = """
from fedward.models.family import Family
from fedward.study.frozen import Frozen


class Settings(Frozen):
    width: int = 3


def build(settings, inputs, outputs):
    from torch import nn
    width = settings.width
    return nn.Sequential(nn.Linear(inputs.shape[0], width), nn.Linear(width, outputs))


FAMILY = Family("ward_net", Settings, build, inputs=("features",))
RENAMED = Family("other", Settings, build, inputs=("features",))
NO_INPUTS = Family("ward_net", Settings, build, inputs=("smells",))
NUMBER = 7
"""
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "ward-models"
version = "2.5"

[project.entry-points."fedward.models"]
ward_net = "ward_models:FAMILY"

[tool.setuptools]
py-modules = ["ward_models"]
"""
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "breast-cancer.toml"
STUDY = """
study.name = "tiny"
task = {kind = "binary", classes = ["no", "yes"]}
model = {name = "NAME", width = 5}
training = {rounds = 1, local_epochs = 1, learning_rate = 0.1}
participation.hospitals = 3
data = {kind = "table", label = "ill", features = {age = {}, sex = {}}}
"""
BUILD = """
import logging, sys
from pathlib import Path
logging.basicConfig(format="log: %(message)s", stream=sys.stdout)
from fedward.client.study_words import words_of
from fedward.client.hospital import Limits
from fedward.models.registry import FAMILIES, build, every_family, read_settled
from fedward.study.errors import FedwardError
print("loaded", "ward_models" in sys.modules)
try:
    study = read_settled(Path(sys.argv[1]))
    model = build(study, seed=0)
    print("weights", sum(p.numel() for p in model.parameters()))
    print(*(line for line in words_of(study, study.digest(), Limits()) if "model " in line))
except FedwardError as error:
    print(error.line())
print("listed", *(family.name for family in every_family() if family.name not in FAMILIES))
print("ours", sum(family.name in FAMILIES for family in every_family()) == len(FAMILIES))
"""


def package(site: Path, entry_points: str, *, name: str = "ward-models", code: str = MODEL) -> None:
    """What pip leaves of a package that offers models."""
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(code, encoding="utf-8")
    about = site / f"{module}-1.4.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.4\n")
    (about / "entry_points.txt").write_text(f"[fedward.models]\n{entry_points}\n")


def said(site: Path, name: str = "ward_net") -> list[str]:
    """What a new process says of a study that names this model."""
    (site / "study.toml").write_text(STUDY.replace("NAME", name), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(site / "study.toml")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
def test_a_study_names_a_model_of_an_installed_package(tmp_path: Path) -> None:
    package(tmp_path, "ward_net = ward_models:FAMILY")

    lines = said(tmp_path)

    assert lines[0] == "loaded False"  # no code runs before its model is asked for
    assert lines[1] == f"weights {2 * 5 + 5 + 5 * 2 + 2}"
    assert "'ward_net' with width = 5, of the package ward-models 1.4" in lines[2]
    assert lines[3:] == ["listed ward_net", "ours True"]


def ran(command: list[str], **environment: str) -> str:
    """What a command prints that ends well."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_package_that_pip_built_and_installed_trains_privately(tmp_path: Path) -> None:
    source, installed_in = tmp_path / "source", tmp_path / "installed"
    source.mkdir()
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (source / "ward_models.py").write_text(MODEL, encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    ran([*pip, "--no-index", "--target", str(installed_in), str(source)])
    fedward = str(Path(sys.executable).with_name("fedward"))
    study, out = tmp_path / "study.toml", tmp_path / "run"
    example = EXAMPLE.read_text(encoding="utf-8")
    for whole, other in (
        ('name = "mlp"\nhidden = [32]', 'name = "ward_net"\nwidth = 4'),
        ("rounds = 10", "rounds = 1"),
    ):
        assert whole in example
        example = example.replace(whole, other)
    study.write_text(example, encoding="utf-8")

    listed = json.loads(ran([fedward, "models", "--json"], PYTHONPATH=str(installed_in)))
    simulate = [fedward, "simulate", str(study), "--out", str(out), "--workers", "1"]
    ran([*simulate, "--no-baselines"], PYTHONPATH=str(installed_in))

    (ours,) = [each for each in listed if each["name"] == "ward_net"]
    assert ours["from"] == "ward-models 2.5"
    assert ours["settings"] == {"width": 3}
    assert "flat" in ours["privacy"]
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert result["failures"] == []
    assert result["sums"]["secure"]
    assert result["sums"]["lost"] == 0
    assert len(result["privacy"]) == 4
    assert all(0 < spent["epsilon"] <= 8 for spent in result["privacy"].values())
    weights = load_file(out / "model.safetensors")
    assert sum(w.numel() for w in weights.values()) == 30 * 4 + 4 + 4 * 2 + 2
    assert all(w.isfinite().all() for w in weights.values())


@pytest.mark.slow
def test_a_broken_package_is_one_line_that_names_it_and_others_go_on(tmp_path: Path) -> None:
    package(tmp_path, "ward_net = ward_models:FAMILY")
    broken = "import no_such_library\n"
    package(tmp_path, "torn_net = torn_models:FAMILY", name="torn-models", code=broken)

    good, torn = said(tmp_path), said(tmp_path, "torn_net")

    line = "'torn_net' of the installed package torn-models 1.4 cannot be used (ModuleNotFoundError"
    assert line in torn[1]
    for lines in (good, torn):
        assert [each for each in lines if each.startswith("log: ")]
        assert all(line in each for each in lines if each.startswith("log: "))
        assert "listed ward_net" in lines
        assert "ours True" in lines
    assert good[1].startswith("weights")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        ("RENAMED", "the family calls itself 'other'"),
        ("NO_INPUTS", "its inputs are ('smells',), not of features, image"),
        ("NUMBER", "it is no Family but int"),
        ("NOTHING", "AttributeError"),
    ],
)
def test_what_is_no_such_family_is_refused(attribute: str, why: str, site: Path) -> None:
    package(site, f"ward_net = ward_models:{attribute}")

    try:
        with pytest.raises(Exception, match=r"ward-models 1\.4 cannot be used") as refused:
            installed(FAMILIES).families["ward_net"].family()
        assert why in str(refused.value)
    finally:
        sys.modules.pop("ward_models", None)


def test_nobody_takes_the_name_of_fedward_s_own(site: Path) -> None:
    package(site, "mlp = ward_models:FAMILY")

    found = installed(FAMILIES)

    assert "mlp" not in found.families
    assert "package ward-models 1.4 is refused: fedward itself has" in str(found.refused["mlp"])


def test_of_two_packages_with_one_name_neither_is_taken(site: Path) -> None:
    for name in ("ward-models", "other-models"):
        package(site, f"ward_net = {name.replace('-', '_')}:FAMILY", name=name)

    found = installed(FAMILIES)

    assert "ward_net" not in found.families
    assert "other-models 1.4, ward-models 1.4 is refused" in str(found.refused["ward_net"])
