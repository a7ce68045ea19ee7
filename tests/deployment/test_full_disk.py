"""A disk that is full, at a hospital and at the aggregator: one line, and on when there is room.

The disks are small file systems in memory; where mounting them is not allowed, these tests cannot
be run.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedward.server.run_registry import RunFolder
from tests.deployment.at_work import ROUNDS, AtWork, at_work, three, until

pytestmark = pytest.mark.slow
STUDY = three("private", private=True)
FULL = "B"


def _mount(folder: Path) -> None:
    """A disk of a megabyte."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "none", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")


def _fill(disk: Path) -> Path:
    """Leave no byte on a disk."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


@pytest.fixture
def disks() -> Iterator[list[Path]]:
    """What a test mounts, to be unmounted after its processes have ended."""
    mounted: list[Path] = []
    yield mounted
    for disk in mounted:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.fixture
def consortium(disks: list[Path]) -> Iterator[AtWork]:
    """A hospital's state and the aggregator's runs lie on small disks of their own."""

    def prepare(made: AtWork) -> None:
        for disk in (made.state(FULL), made.hub / "state" / "runs"):
            _mount(disk)
            disks.append(disk)

    with at_work(STUDY, prepare=prepare) as found:
        yield found


def test_a_hospital_s_disk_is_full_for_a_while(consortium: AtWork) -> None:
    run = consortium.train(STUDY, "full")
    consortium.until_said(FULL, "asked to query.advertise")
    daemon = consortium.deployment.parts[FULL].process
    assert daemon is not None
    filler = _fill(consortium.state(FULL))
    consortium.until_said(FULL, "is held: .*No space left on device")
    filler.unlink()
    begun = len(consortium.said(FULL))
    consortium.until_said(FULL, "answered query", after=begun)
    _goes_on(consortium, run)
    assert daemon.poll() is None  # the same process, which nobody had to start again


def test_the_aggregator_s_disk_is_full_for_a_while(consortium: AtWork) -> None:
    run = consortium.train(STUDY, "full")
    consortium.until_said(FULL, "asked to train round 1 ")
    filler = _fill(run.folder.parent)
    until(lambda: "run ended" in consortium.hub_log)
    filler.unlink()
    _goes_on(consortium, run)


def _goes_on(consortium: AtWork, run: RunFolder) -> None:
    """By itself, or once a person says so."""
    record = consortium.ended(run)
    if record.state != "finished":
        assert record.state in {"paused", "failed"}
        assert record.reason
        consortium.fedward("aggregator", "resume", "full", "--aggregator", consortium.hub_file)
        consortium.finished(run)
    for name in consortium.names:
        rounds = [entry.charge.round for entry in consortium.charges(name)]
        assert set(rounds) <= set(range(1, ROUNDS + 1))
        assert len(rounds) == len(set(rounds)), rounds  # nothing is charged twice
        assert consortium.audited(name)
    consortium.no_traceback()
