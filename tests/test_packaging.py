"""What is declared in pyproject.toml is what lies in the folders, and what ends up in the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("cli", "client", "clinic", "models", "privacy", "server", "simulation", "study", "web")


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def packages_on_disk() -> set[str]:
    return {
        ".".join(("fedward", *init.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }


def code_on_disk() -> set[str]:
    return {
        f"fedward/{path.relative_to(ROOT).as_posix()}"
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }


def test_the_packages_list_names_every_folder_with_code(pyproject: dict[str, Any]) -> None:
    declared = pyproject["tool"]["setuptools"]["packages"]

    assert len(declared) == len(set(declared))
    assert set(declared) == packages_on_disk()


def test_every_folder_with_code_is_a_package() -> None:
    folders = {path.parent for room in ROOMS for path in (ROOT / room).rglob("*.py")}

    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def test_package_dir_maps_every_room(pyproject: dict[str, Any]) -> None:
    mapping = pyproject["tool"]["setuptools"]["package-dir"]

    assert mapping == {f"fedward.{room}": room for room in ROOMS}


def test_fedward_is_a_namespace() -> None:
    assert not (ROOT / "fedward").exists()
    assert not (ROOT / ".typing" / "fedward" / "__init__.py").exists()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").is_file()


def test_type_checkers_see_every_room() -> None:
    links = {path.name: path for path in (ROOT / ".typing" / "fedward").iterdir()}

    assert set(links) == set(ROOMS)
    for room, link in links.items():
        assert link.is_symlink()
        assert link.readlink() == Path("..", "..", room)
        assert link.resolve() == ROOT / room


def test_lint_knows_every_bare_name(pyproject: dict[str, Any]) -> None:
    banned = pyproject["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]

    assert set(banned) == set(ROOMS)


def test_pins_fall_within_the_declared_bounds(pyproject: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {
        canonicalize_name(name): version
        for name, separator, version in (line.partition("==") for line in lines)
        if separator
    }
    project = pyproject["project"]

    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        if wanted.name == project["name"]:  # an extra of its own
            continue
        pin = pins.get(canonicalize_name(wanted.name))
        assert pin is not None, f"constraints.txt does not pin {wanted.name}"
        assert wanted.specifier.contains(pin), f"{text}, but constraints.txt says {pin}"


def _parts_of(folders: tuple[str, ...]) -> list[str]:
    """Templates, scripts and style sheets."""
    found = [path for folder in folders for path in (ROOT / folder).iterdir() if path.is_file()]
    assert {path.suffix for path in found} >= {".html", ".js", ".css"}
    return [path.relative_to(ROOT).as_posix() for path in found]


@pytest.mark.slow
def test_the_wheel_holds_the_rooms_and_nothing_else(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    left_out = (".git", ".venv", ".hypothesis", "*_cache*", "*.egg-info", "build", "dist", "runs")
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*left_out), symlinks=True)

    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(checkout)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("fedward-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert {name for name in names if name.endswith(".py")} == code_on_disk()
    assert {name.partition("/")[0] for name in names} == {"fedward"}
    assert {f"fedward/{room}/py.typed" for room in ROOMS} <= names
    templates = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.jinja")}
    pages = ("web/page", "client/page", "server/page", "clinic/serving/page")
    assert {f"fedward/{path}" for path in _parts_of(pages)} <= names
    assert {name for name in names if name.endswith(".jinja")} == {
        f"fedward/{t}" for t in templates
    }
