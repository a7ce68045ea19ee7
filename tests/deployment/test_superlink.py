"""A real SuperLink: what survives kill -9, and what it is told about runs."""

from __future__ import annotations

import io
import os
import signal
import time
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import flwr
import psutil
import pytest

from fedward.server.superlink import SuperLink, check_version, child_environment
from fedward.server.superlink_control import SuperLinkControl, app_bundle
from fedward.study.errors import ServiceError
from fedward.study.freed_memory import FREED_STAYS
from tests.server.flower_hospital import public_der, transport_key
from tests.superlink_ward import free_port, until


@pytest.fixture(params=["memory", "disk"])
def superlink(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[SuperLink]:
    link = SuperLink(tmp_path / "superlink", on_disk=request.param == "disk")
    link.start()
    yield link
    link.stop()


on_disk = pytest.mark.parametrize("superlink", ["disk"], indirect=True)
in_memory = pytest.mark.parametrize("superlink", ["memory"], indirect=True)


def kill_9(superlink: SuperLink) -> None:
    pid = superlink.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while superlink.alive:
        time.sleep(0.01)


@pytest.mark.slow
@in_memory
def test_after_kill_9_hospitals_can_be_registered_anew(superlink: SuperLink) -> None:
    key = public_der(transport_key())
    superlink.control.register("Ward", key)

    kill_9(superlink)
    superlink.start()

    assert superlink.control.nodes() == []
    assert not (superlink.folder / "superlink.sqlite").exists()
    superlink.control.register("Ward", key)
    assert [node.name for node in superlink.control.nodes()] == ["Ward"]


@pytest.mark.slow
@on_disk
def test_hospitals_stay_registered_over_kill_9(superlink: SuperLink) -> None:
    keys = {f"Ward {n}": public_der(transport_key()) for n in "AÄ"}
    for name, key in keys.items():
        superlink.control.register(name, key)
    before = superlink.control.nodes()
    children = psutil.Process(superlink.pid).children(recursive=True)

    kill_9(superlink)
    with pytest.raises(ServiceError):
        superlink.control.nodes()
    superlink.start()

    assert superlink.control.nodes() == before
    assert {node.name: node.key for node in before} == keys
    assert not [child for child in children if child.is_running()]


@pytest.mark.slow
@pytest.mark.parametrize("state", ["kept", "gone", "under another name"])
def test_a_superlink_whose_parent_was_killed_is_ended_by_the_next(
    superlink: SuperLink, state: str, tmp_path: Path
) -> None:
    superlink.control.register("Ward", public_der(transport_key()))
    orphan = psutil.Process(superlink.pid)
    orphans = [orphan, *orphan.children(recursive=True)]

    for child in orphans[1:]:
        child.suspend()  # or it would end by itself when its parent does
    on_disk = (superlink.folder / "superlink.sqlite").exists()
    if state == "gone":
        superlink.folder.rename(superlink.folder.with_name("away"))
    folder = superlink.folder
    if state == "under another name":
        folder = tmp_path / "link"
        folder.symlink_to(superlink.folder)
    successor = SuperLink(folder, on_disk=on_disk)
    try:
        successor.start()

        kept = on_disk and state != "gone"
        assert [node.name for node in successor.control.nodes()] == ["Ward"] * kept
        assert not superlink.alive
        assert len(orphans) > 1
        assert not [one for one in orphans if one.is_running()]
        assert successor.pid != orphan.pid
    finally:
        successor.stop()


@pytest.mark.slow
@in_memory
def test_without_the_process_that_starts_runs_it_counts_as_dead(superlink: SuperLink) -> None:
    """Flower itself goes on, and never starts a run again."""
    children = psutil.Process(superlink.pid).children()
    [executor] = [child for child in children if "flower-superexec" in " ".join(child.cmdline())]
    assert superlink.alive

    executor.kill()

    until(lambda: not superlink.alive, seconds=10, what="its end to be noticed")
    superlink.start()
    assert superlink.alive


@pytest.mark.slow
@in_memory
def test_it_answers_only_if_both_of_its_ports_do(superlink: SuperLink) -> None:
    assert superlink.port != superlink.fleet_port
    assert superlink.answers(10)

    for wrong in (free_port(), superlink.port):  # nobody is there; and who does not speak gRPC
        right, superlink.fleet_port = superlink.fleet_port, wrong
        assert not superlink.answers(10)
        superlink.fleet_port = right


@pytest.mark.slow
def test_a_removed_key_is_gone_and_does_not_come_back(superlink: SuperLink) -> None:
    key = public_der(transport_key())
    superlink.control.remove(superlink.control.register("Ward", key))

    assert superlink.control.nodes() == []
    # Flower keeps removed keys: a hospital that is admitted again needs a new transport key.
    with pytest.raises(ServiceError, match="already in use"):
        superlink.control.register("Ward", key)
    with pytest.raises(ServiceError, match="refused UnregisterNode"):
        superlink.control.remove(1)


@pytest.mark.slow
def test_a_run_starts_with_its_folder_and_says_why_it_failed(
    superlink: SuperLink, tmp_path: Path
) -> None:
    number = superlink.control.start_run({"study": str(tmp_path / "no-study.toml"), "seed": 3})
    last = time.monotonic() + 90
    while superlink.control.run_state(number)[0] in {"waiting", "running"}:
        assert time.monotonic() < last
        time.sleep(0.2)

    assert superlink.control.run_state(number)[0] == "failed"
    assert "no-study.toml" in superlink.control.run_state(number)[1]
    assert superlink.control.runs() == {number: superlink.control.run_state(number)}
    superlink.control.stop_run(number)
    with pytest.raises(ServiceError):
        superlink.control.run_state(number + 1)


def test_a_run_that_the_superlink_does_not_list_is_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SuperLinkControl, "_states", lambda self, request: {})

    with pytest.raises(ServiceError, match="knows no run 7"):
        SuperLink(tmp_path).control.run_state(7)


@pytest.mark.slow
def test_a_run_is_stopped(superlink: SuperLink, tmp_path: Path) -> None:
    number = superlink.control.start_run({"folder": str(tmp_path)})

    superlink.control.stop_run(number)

    assert superlink.control.run_state(number)[0] == "stopped"


@pytest.mark.slow
def test_an_unknown_setting_starts_no_run(superlink: SuperLink) -> None:
    with pytest.raises(ServiceError, match="refused StartRun"):
        superlink.control.start_run({"command": "x"})


@pytest.mark.slow
def test_its_files_are_its_owners_alone(superlink: SuperLink) -> None:
    assert superlink.folder.stat().st_mode & 0o077 == 0
    for path in superlink.folder.rglob("*"):
        if path.is_file() and path.suffix in {".sqlite", ".pem"} and path.name != "loopback.pem":
            assert path.stat().st_mode & 0o077 == 0, path


def test_a_process_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "superlink" / "superlink.sqlite").mkdir(parents=True)

    with pytest.raises(ServiceError, match="ended at its start") as error:
        SuperLink(tmp_path / "superlink", on_disk=True).start()

    assert "\n" not in error.value.line()


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no EC P-384 key"):
        SuperLink(tmp_path).control.register("Ward", b"not a key")


def test_the_bundle_holds_no_code() -> None:
    with zipfile.ZipFile(io.BytesIO(app_bundle())) as bundle:
        assert sorted(bundle.namelist()) == [".info/CONTENT", "pyproject.toml"]
        app = tomllib.loads(bundle.read("pyproject.toml").decode())["tool"]["flwr"]["app"]

    assert app["components"] == {
        "serverapp": "fedward.server.app:app",
        "clientapp": "fedward.client.app:app",
    }
    assert app_bundle() == app_bundle()


def test_flower_hears_nothing_of_our_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLWR_INTERNAL_GRPC_CONTROL_API", "1")
    monkeypatch.setenv("https_proxy", "http://proxy")

    found = child_environment(tmp_path)

    assert "FLWR_INTERNAL_GRPC_CONTROL_API" not in found
    assert "https_proxy" not in found
    assert found["FLWR_TELEMETRY_ENABLED"] == "0"


def test_flower_keeps_freed_memory_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trim, *others) = FREED_STAYS
    for name in others:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(trim, "1000000")

    found = child_environment(tmp_path)

    assert {name: found[name] for name in FREED_STAYS} == {**FREED_STAYS, trim: "1000000"}


@pytest.mark.parametrize("other", ["1.40.9", "1.42.0", "1.410.0", "2.0"])
def test_another_flower_is_refused(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_version()
    monkeypatch.setattr(flwr, "__version__", other)

    with pytest.raises(ServiceError, match=f"Flower {other} is installed"):
        check_version()
