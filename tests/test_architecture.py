"""The arrows between the rooms, held against what the code really imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = {"study", "privacy", "models"}
SIDE = {*LIBRARY, "web"}
MAY_IMPORT = {
    "study": set[str](),
    "privacy": {"study"},
    "models": {"study"},
    "web": {"study", "privacy"},
    "client": SIDE,
    "server": SIDE,
    "simulation": {*SIDE, "client", "server"},
    "clinic": {*SIDE, "client"},
    "cli": {*SIDE, "client", "clinic", "server", "simulation"},
}
NETWORK = {
    *("aiohttp", "fastapi", "ftplib", "grpc", "http", "httpx", "imaplib", "requests", "smtplib"),
    *("socket", "socketserver", "ssl", "starlette", "telnetlib", "urllib", "urllib3", "uvicorn"),
    *("websockets", "xmlrpc"),
}


class Import(NamedTuple):
    """One imported module, and the line that asks for it."""

    module: str
    line: int


def imports_of(source: str) -> Iterator[Import]:
    """Every module that a file imports, at its head or inside a function, in code or by name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (Import(name.name, node.lineno) for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                base = "." * level + (module or "")
                yield Import(base, node.lineno)
                yield from (Import(f"{base}.{name.name}", node.lineno) for name in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield Import(module, node.lineno)


def forbidden(room: str, module: str) -> str | None:
    """Why a file of this room must not import this module, or None when it may."""
    top, _, rest = module.partition(".")
    if top == "":
        return "relative imports hide the room: write fedward.<room>"
    if top in {*MAY_IMPORT, "tests"}:
        return f"a second copy under its bare name: write fedward.{module}"
    if top == "fedward" and rest:
        other = rest.partition(".")[0]
        if other not in {room, *MAY_IMPORT[room]}:
            return f"{room} may import only {sorted(MAY_IMPORT[room]) or 'itself'}"
    if room == "privacy" and top in {"flwr", *NETWORK}:
        return "privacy knows neither Flower nor the network"
    return None


def violations(root: Path, room: str) -> list[str]:
    """Every import of a room that breaks a rule, as `file:line: module: why`."""
    return [
        f"{path.relative_to(root)}:{found.line}: {found.module}: {why}"
        for path in sorted((root / room).rglob("*.py"))
        for found in imports_of(path.read_text(encoding="utf-8"))
        if (why := forbidden(room, found.module))
    ]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    assert violations(ROOT, room) == []


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_every_room_has_code_to_look_at(room: str) -> None:
    assert list((ROOT / room).rglob("*.py"))


def test_the_arrows_have_no_way_back() -> None:
    for room, below in MAY_IMPORT.items():
        for other in below:
            assert MAY_IMPORT[other] < below, f"{room} -> {other}"
            assert room not in MAY_IMPORT[other]


def test_client_and_server_do_not_know_each_other() -> None:
    assert forbidden("client", "fedward.server.app")
    assert forbidden("server", "fedward.client.app")


def test_tests_and_examples_use_the_installed_names() -> None:
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]
    bare = [
        f"{path.relative_to(ROOT)}:{found.line}: {found.module}"
        for path in files
        for found in imports_of(path.read_text(encoding="utf-8"))
        if found.module.partition(".")[0] in MAY_IMPORT
    ]
    assert bare == []


PUBLIC_FLOWER = ("flwr.app", "flwr.clientapp", "flwr.serverapp")
PRIVATE_FLOWER = {
    *("client/fleet.py", "client/letter.py"),
    *("server/doorkeeper.py", "server/exchange.py", "server/fleet_methods.py"),
    *("server/optimizer.py", "server/pulling.py", "server/quick_grid.py", "server/superlink.py"),
    "server/superlink_control.py",
    *("simulation/grid.py", "simulation/ray_engine.py", "simulation/unreliable.py"),
}
"""Files with names that Flower may change in any release."""


def knows_private_flower(source: str) -> bool:
    """Whether a file imports more of Flower than the parts that are meant for others."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                modules = [name.name for name in names]
            case ast.ImportFrom(module=str(module)) if module != "flwr":
                modules = [module]
            case ast.ImportFrom(module="flwr", names=names):
                modules = [f"flwr.{name.name}" for name in names]
            case _:
                continue
        for module in modules:
            if module.startswith("flwr.") and module not in PUBLIC_FLOWER:
                return True
    return False


def test_flower_s_private_names_stand_in_a_few_known_files_only() -> None:
    found = {
        str(path.relative_to(ROOT))
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        if knows_private_flower(path.read_text(encoding="utf-8"))
    }
    assert found == PRIVATE_FLOWER


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import flwr\nfrom flwr.app import Message\nfrom flwr import clientapp", False),
        ("def late():\n    from flwr.common.constant import ErrorCode", True),
        ("import flwr.proto.node_pb2", True),
        ("from flwr import supercore", True),
        ("from flwr.app.message import make_message", True),
    ],
)
def test_a_private_name_of_flower_is_found(code: str, *, private: bool) -> None:
    assert knows_private_flower(code) is private


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("study", "from fedward.privacy import ledger"),
        ("study", "from fedward import privacy"),
        ("privacy", "import fedward.models.registry"),
        ("privacy", "import flwr.app"),
        ("privacy", "from flwr import app"),
        ("privacy", "import socket"),
        ("web", "from fedward.client.control import ControlClient"),
        ("web", "from fedward.server.run_registry import RunRegistry"),
        ("privacy", "from http.client import HTTPConnection"),
        ("privacy", "from urllib.request import urlopen"),
        ("models", "from fedward.client import training"),
        ("client", "from fedward.server.app import app"),
        ("client", "def late():\n    import fedward.server.app"),
        ("client", "from ..server import app"),
        ("client", "import study.errors"),
        ("server", "if True:\n    from fedward.client.data import tables"),
        ("server", "from importlib import import_module\nimport_module('fedward.client.app')"),
        ("simulation", "from fedward.cli import main"),
        ("cli", "import server"),
        ("cli", "from tests.helpers import study"),
    ],
)
def test_a_forbidden_import_is_found(room: str, code: str, tmp_path: Path) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "wrong.py").write_text(code, encoding="utf-8")

    assert violations(tmp_path, room)


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("study", "from fedward.study.errors import StudyError"),
        ("study", "import models_of_something_else"),
        ("privacy", "from fedward.study import errors"),
        ("client", "from fedward.privacy.ledger import Ledger\nimport socket"),
        ("server", "from fedward.models import registry\nimport flwr.serverapp"),
        ("simulation", "import fedward.client.app, fedward.server.app"),
        ("cli", "from fedward.simulation import grid"),
    ],
)
def test_an_allowed_import_passes(room: str, code: str, tmp_path: Path) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "right.py").write_text(code, encoding="utf-8")

    assert violations(tmp_path, room) == []
