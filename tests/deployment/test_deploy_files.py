"""What `deploy/` holds is checked as far as it can be without a cluster or a second machine."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
COMPOSE = sorted((DEPLOY / "compose").glob("*.yaml"))


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_there_is_one_of_each_for_each_side() -> None:
    for files in (UNITS, MANIFESTS, COMPOSE):
        assert {"hospital", "aggregator"} <= {p.stem.removeprefix("fedward-") for p in files}


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    program = tmp_path / "fedward"
    program.touch(mode=0o755)
    copy = tmp_path / unit.name
    text = unit.read_text(encoding="utf-8").replace("/opt/fedward/bin/fedward", str(program))
    copy.write_text(text, encoding="utf-8")

    said = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )

    ours = [line for line in said.stderr.splitlines() if unit.name in line]
    assert ours == []


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_schemas_accept_the_manifest(manifest: Path) -> None:
    found = documents(manifest)

    for document in found:
        kubernetes_validate.validate(document, "1.31", strict=True)
    assert {"StatefulSet", "NetworkPolicy"} <= {document["kind"] for document in found}


@pytest.mark.parametrize("file", [*MANIFESTS, *COMPOSE], ids=lambda p: f"{p.parent.name}-{p.name}")
def test_a_container_runs_without_rights_that_it_does_not_need(file: Path) -> None:
    for document in documents(file):
        for service in document.get("services", {}).values():
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        if document.get("kind") == "StatefulSet":
            pod = document["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert document["spec"]["replicas"] == 1
            (container,) = pod["containers"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("side", ["hospital", "aggregator"])
def test_every_way_to_start_a_side_uses_the_same_command(side: str) -> None:
    """A command that is renamed must be renamed here too."""
    from typer.main import get_command

    from fedward.cli.main import app

    unit = (DEPLOY / "systemd" / f"fedward-{side}.service").read_text(encoding="utf-8")
    (line,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    (service,) = documents(DEPLOY / "compose" / f"{side}.yaml")[0]["services"].values()
    manifest = documents(DEPLOY / "kubernetes" / f"{side}.yaml")
    (pod,) = [document for document in manifest if document["kind"] == "StatefulSet"]
    (container,) = pod["spec"]["template"]["spec"]["containers"]

    group: Any = get_command(app)
    known = {option for p in group.commands[side].commands["start"].params for option in p.opts}
    for words in (line.split()[1:], service["command"], container["args"]):
        assert words[:2] == [side, "start"]
        assert {word for word in words if word.startswith("--")} <= known
        assert f"--{side}" in words


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_may_open_more_files_than_the_gate_takes_connections(unit: Path) -> None:
    from fedward.server.http_sides import Limits

    limits = Limits()
    (line,) = [n for n in unit.read_text("utf-8").splitlines() if n.startswith("LimitNOFILE=")]

    # Twice as many as there are: as if each had one more, to the SuperLink.
    assert int(line.partition("=")[2]) > 4 * (2 * limits.connections + limits.strangers)


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_a_mount_leaves_the_modes_of_key_files_alone(manifest: Path) -> None:
    """Without this, every mount lets the group read them, and such keys are refused."""
    (pod,) = [d for d in documents(manifest) if d["kind"] == "StatefulSet"]
    context = pod["spec"]["template"]["spec"]["securityContext"]

    assert context["fsGroup"]
    assert context["fsGroupChangePolicy"] == "OnRootMismatch"


def test_an_image_holds_the_sources_and_nothing_else() -> None:
    root = DEPLOY.parent
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    first, *rules = [line for line in lines if line and not line.startswith("#")]
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))

    assert first == "*"
    assert set(project["tool"]["setuptools"]["package-dir"].values()) <= let_in
    assert {"pyproject.toml", "constraints.txt", project["project"]["readme"]} <= let_in
    assert set(project["project"]["license-files"]) <= let_in
    assert all((root / name).exists() for name in let_in)
