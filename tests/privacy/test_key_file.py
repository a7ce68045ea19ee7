"""A private key's file: whole or not there, its owner's alone, and never written over."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

import fedward.privacy.advert as advert_module
from fedward.privacy.advert import RunKey
from fedward.privacy.key_file import read_key, write_key
from fedward.study.errors import DataError

KEY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = X25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def is_key(path: Path, key: X25519PrivateKey) -> bool:
    found = read_key(path)
    assert isinstance(found, X25519PrivateKey)
    return found.private_bytes_raw() == key.private_bytes_raw()


@pytest.fixture
def open_umask() -> Iterator[None]:
    """A process that would give every new file to everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


# --- Writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, Ed25519PrivateKey.generate()], ids=["X25519", "Ed25519"])
def test_what_was_written_is_read_again(
    key: X25519PrivateKey | Ed25519PrivateKey, tmp_path: Path
) -> None:
    write_key(tmp_path / "key.pem", key)

    found = read_key(tmp_path / "key.pem")

    assert isinstance(found, type(key))
    assert found.private_bytes_raw() == key.private_bytes_raw()


@pytest.mark.usefixtures("open_umask")
def test_only_its_owner_may_use_the_file_whatever_the_umask(tmp_path: Path) -> None:
    write_key(tmp_path / "key.pem", KEY)
    RunKey.kept(tmp_path / "kept.pem")

    assert mode(tmp_path / "key.pem") == 0o600
    assert mode(tmp_path / "kept.pem") == 0o600


def test_nothing_else_is_left_beside_the_key(tmp_path: Path) -> None:
    write_key(tmp_path / "key.pem", KEY)

    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(path, KEY)

    with pytest.raises(DataError, match=r"key\.pem.*never written over"):
        write_key(path, OTHER)

    assert is_key(path, KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("kind", ["file", "folder", "link to nothing"])
def test_whatever_is_at_the_path_stays(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    if kind == "file":
        path.write_text("somebody's notes", encoding="utf-8")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "elsewhere.pem")
    before = path.lstat()

    with pytest.raises(DataError):
        write_key(path, KEY)

    assert path.lstat().st_ino == before.st_ino
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


@pytest.mark.parametrize("step", ["fsync", "link"])
def test_a_disk_that_fails_leaves_no_key_and_no_half_of_one(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)

    with pytest.raises(DataError, match="No space left"):
        write_key(tmp_path / "key.pem", KEY)

    assert list(tmp_path.iterdir()) == []


def test_until_it_is_on_the_disk_it_is_not_at_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks meanwhile, or after a crash, finds no key rather than half of one."""
    path, synced = tmp_path / "key.pem", list[tuple[bool, bool]]()
    sync = os.fsync

    def looked_at(descriptor: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", looked_at)
    write_key(path, KEY)

    assert synced == [(False, False), (True, True)]  # its content, and at last its name
    assert path.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.*No such file"):
        write_key(tmp_path / "nowhere" / "key.pem", KEY)


# --- Reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o666])
def test_a_key_that_others_may_use_is_refused(allowed: int, tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    write_key(path, KEY)
    path.chmod(allowed)

    with pytest.raises(DataError, match=r"others than its owner.*chmod 600"):
        read_key(path)
    with pytest.raises(DataError, match="others than its owner"):
        RunKey.kept(path)


def test_a_pipe_is_no_key_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key.pem", 0o600)

    with pytest.raises(DataError, match="not a regular file"):
        read_key(tmp_path / "key.pem")


def test_what_is_no_key_is_refused_without_quoting_it(tmp_path: Path) -> None:
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    locked = KEY.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
    )
    for content in (b"", b"\xff" * 40, pem[:-40], pem[40:], locked):
        path = tmp_path / "key.pem"
        path.write_bytes(content)
        path.chmod(0o600)

        with pytest.raises(DataError, match="not usable as a private key") as caught:
            read_key(path)

        assert pem.split(b"\n")[1].decode()[20:40] not in str(caught.value)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"key\.pem.*No such file"):
        read_key(tmp_path / "key.pem")


# --- The key of a run -----------------------------------------------------------------------------


def test_a_run_s_key_is_made_once_and_then_kept(tmp_path: Path) -> None:
    first = RunKey.kept(tmp_path / "run-key.pem").public

    assert RunKey.kept(tmp_path / "run-key.pem").public == first
    assert RunKey.kept(tmp_path / "another.pem").public != first


def test_a_key_of_another_kind_is_no_run_key(tmp_path: Path) -> None:
    write_key(tmp_path / "run-key.pem", Ed25519PrivateKey.generate())

    with pytest.raises(DataError, match="another kind than X25519"):
        RunKey.kept(tmp_path / "run-key.pem")


def test_a_run_key_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        RunKey.kept(tmp_path / "nowhere" / "run-key.pem")


def test_when_another_process_was_first_its_key_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one writes exactly between the look at the path and the writing."""

    def too_late(path: Path, key: X25519PrivateKey) -> None:
        write_key(path, OTHER)
        write_key(path, key)

    monkeypatch.setattr(advert_module, "write_key", too_late)

    key = RunKey.kept(tmp_path / "run-key.pem")

    assert key.public == OTHER.public_key().public_bytes_raw()
    assert is_key(tmp_path / "run-key.pem", OTHER)


def test_threads_that_ask_at_once_get_one_key(tmp_path: Path) -> None:
    for number in range(20):
        path, found = tmp_path / f"{number}.pem", list[bytes]()
        together = threading.Barrier(4)

        def ask(path: Path = path, found: list[bytes] = found) -> None:
            together.wait()  # noqa: B023 - all of them are joined in this turn
            found.append(RunKey.kept(path).public)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 4
        assert len(set(found)) == 1


_ASK = """
import sys
from pathlib import Path
from fedward.privacy.advert import RunKey
print("ready", flush=True)
sys.stdin.readline()
for number in range(150):
    print(RunKey.kept(Path(sys.argv[1]) / f"{number}.pem").public.hex())
"""


def test_processes_that_ask_at_once_get_one_key_for_each_run(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ASK, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    one, other = (process.communicate(timeout=60)[0] for process in processes)

    assert one == other
    assert len(set(one.split())) == 150
    assert len(list(tmp_path.iterdir())) == 150
    assert [process.returncode for process in processes] == [0, 0]
