"""A consortium of hospitals at work, each part a process, and ways to watch and to harm it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from fedward.client.hospital import DaemonSettings, read_hospital, write_hospital
from fedward.privacy.audit_log import Line
from fedward.privacy.audit_log import verify as verify_log
from fedward.privacy.identity import Identity
from fedward.privacy.ledger import Entry, Ledger
from fedward.server.aggregator import RunSettings, read_aggregator, write_aggregator
from fedward.server.run_registry import RunFolder, RunRecord
from fedward.simulation.deployment import Deployment
from fedward.study.study import Study
from tests.secure_sites import PRIVATE, study_of

FEDWARD = Path(sys.executable).with_name("fedward")
ROUNDS = 4
_LOOK = 0.005  # seconds: a stage of a round lasts many times that


def table(folder: Path, *, patients: int = 150) -> Path:
    """A small table of two numbers that say something about the diagnosis."""
    rng = np.random.default_rng(7)
    sick = np.arange(patients) % 2
    ages, sizes = rng.normal(size=(2, patients)) + 1.5 * sick
    words = np.array(["benign", "malignant"])[sick]
    lines = [f"{a},{s},{w}" for a, s, w in zip(ages, sizes, words, strict=True)]
    path = folder / "table.csv"
    path.write_text("\n".join(["age,size,diagnosis", *lines]) + "\n", "utf-8")
    return path


def three(name: str, *, private: bool = False, **tables: dict[str, Any]) -> Study:
    """A study for three hospitals, all of which are needed, with a deadline for a busy machine."""
    who = {"hospitals": 3, "deadline_seconds": 40.0, "wait_seconds": 120.0}
    given: dict[str, dict[str, Any]] = {
        "study": {"name": name},
        "data": {
            "kind": "table",
            "features": {"age": {}, "size": {}},
            "label": "diagnosis",
            "parts": {"by": "hash", "train": 0.6, "validation": 0.2, "test": 0.2, "seed": 1},
        },
        "training": {"rounds": ROUNDS, "local_epochs": 3, "batch_size": 8, "learning_rate": 0.3},
        "participation": who,
        **({"privacy": PRIVATE} if private else {}),
    }
    for key, values in tables.items():
        given[key] = {**given.get(key, {}), **values}
    return study_of(**given)


class AtWork:
    """A deployment whose parts a test starts, kills and watches.

    Attributes:
        deployment: The consortium.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment

    @classmethod
    def found(
        cls,
        folder: Path,
        study: Study,
        *,
        runs: RunSettings | None = None,
        **daemon: float,
    ) -> AtWork:
        """Enrol everybody, with short waits; nothing is started yet."""
        made = Deployment.found(study, table(folder), folder / "consortium", seed=3)
        hub = read_aggregator(made.aggregator)
        runs = runs or RunSettings(repeats=5, wait_seconds=1.0)
        write_aggregator(hub.model_copy(update={"runs": runs}), made.aggregator)
        settings = {"idle_seconds": 0.2, "longest_pause_seconds": 1, **daemon}
        for path in made.hospitals.values():
            update = {"daemon": DaemonSettings.model_validate(settings), "device": "cpu"}
            write_hospital(read_hospital(path).model_copy(update=update), path)
        return cls(made)

    @property
    def names(self) -> list[str]:
        """The hospitals: A, B, C, ..."""
        return sorted(self.deployment.hospitals)

    # --- Runs -------------------------------------------------------------------------------------

    def train(self, study: Study, name: str, *, seed: int = 0) -> RunFolder:
        """Submit a study; every hospital approves it as soon as it is offered."""
        run = self.submit(study, name, seed=seed)
        try:
            self.deployment.approve(study)
        except Exception:
            self.show(run)
            raise
        return run

    def submit(self, study: Study, name: str, *, seed: int = 0) -> RunFolder:
        return self.deployment.submit(study, seed=seed, name=name)

    def ended(self, run: RunFolder, *, seconds: float = 240.0) -> RunRecord:
        """How a run ended; what everybody logged is shown if it does not."""
        try:
            return self.deployment.wait(run, seconds=seconds)
        except Exception:
            self.show(run)
            raise

    def finished(self, run: RunFolder, *, seconds: float = 240.0) -> None:
        record = self.ended(run, seconds=seconds)
        if record.state != "finished":
            self.show(run)
        assert record.state == "finished", record.reason

    def show(self, run: RunFolder) -> None:
        for path in (run.folder / "events.jsonl", self.hub / "log.txt", *map(self.log, self.names)):
            print(path, path.read_text("utf-8")[-4000:] if path.exists() else "", sep="\n")  # noqa: T201

    def events(self, run: RunFolder, kind: str = "") -> list[dict[str, Any]]:
        """What happened in a run."""
        path = run.folder / "events.jsonl"
        text = path.read_text("utf-8") if path.exists() else ""
        found = [json.loads(line) for line in text.split("\n")[:-1]]
        return [event for event in found if kind in ("", event["event"])]

    # --- The aggregator ---------------------------------------------------------------------------

    @property
    def hub(self) -> Path:
        return self.deployment.aggregator.parent

    @property
    def hub_file(self) -> Path:
        return self.deployment.aggregator

    @property
    def hub_log(self) -> str:
        path = self.hub / "log.txt"
        return path.read_text("utf-8") if path.exists() else ""

    def program(self, part: str, words: str) -> psutil.Process:
        """A process that a part started, once there is one."""
        found: list[psutil.Process] = []

        def there() -> bool:
            process = self.deployment.parts[part].process
            assert process is not None
            for child in psutil.Process(process.pid).children(recursive=True):
                try:
                    if any(words in word for word in child.cmdline()):
                        found.append(child)
                except psutil.Error:
                    continue
            return bool(found)

        until(there, what=words)
        return found[0]

    # --- Hospitals --------------------------------------------------------------------------------

    def file(self, name: str) -> Path:
        return self.deployment.hospitals[name]

    def state(self, name: str) -> Path:
        return self.file(name).parent / "state"

    def log(self, name: str) -> Path:
        return self.file(name).with_name("log.txt")

    def said(self, name: str) -> str:
        return self.log(name).read_text("utf-8") if self.log(name).exists() else ""

    def until_said(
        self, name: str, words: str, *, after: int = 0, seconds: float = 120.0
    ) -> re.Match[str]:
        """Wait until a hospital's log has a line like this, after so many characters."""
        pattern = re.compile(words)
        until(
            lambda: pattern.search(self.said(name), after),
            seconds=seconds,
            what=lambda: f"{words!r} at {name}:\n{self.said(name)[after:][-3000:]}",
        )
        found = pattern.search(self.said(name), after)
        assert found is not None
        return found

    def charges(self, name: str) -> list[Entry]:
        """The ledger of a hospital, whose chain is good."""
        file = self.state(name) / "ledger.sqlite"
        return Ledger(file).entries() if file.exists() else []

    def audited(self, name: str) -> list[Line]:
        """The audit log of a hospital, whose chain is good."""
        identity = Identity.load(self.file(name).with_name("identity.pem"))
        return verify_log(self.state(name) / "audit.jsonl", identity.public, own=True)

    # --- Processes --------------------------------------------------------------------------------

    def kill(self, part: str) -> None:
        """Signal 9 for one of the processes that a service manager starts."""
        self.deployment.parts[part].end(signal.SIGKILL)

    def start(self, part: str) -> None:
        self.deployment.parts[part].start()

    def no_traceback(self) -> None:
        """Nobody said more than lines."""
        for text in (self.hub_log, *map(self.said, self.names)):
            assert "Traceback" not in text, text[-4000:]

    def fedward(self, *words: str | Path, code: int = 0) -> str:
        """A command of a person's, and what it says."""
        done = subprocess.run(
            [FEDWARD, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "COLUMNS": "200"},
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        return said


@contextmanager
def at_work(
    study: Study,
    *,
    prepare: Callable[[AtWork], None] = lambda _: None,
    **given: Any,  # noqa: ANN401 - of AtWork.found
) -> Iterator[AtWork]:
    """A consortium that runs until the test is over.

    Its folder has a short name: a Unix socket's path may have about 100 bytes. Many processes share
    few cores, and each takes one.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fw-", ignore_cleanup_errors=True) as folder,
        patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}),
    ):
        made = AtWork.found(Path(folder), study, **given)
        prepare(made)
        with made.deployment:
            yield made


def until(
    true: Callable[[], object], *, seconds: float = 120.0, what: object = "what was expected"
) -> None:
    """Wait until a condition holds; the test fails if it never does."""
    last = time.monotonic() + seconds
    while not true():
        if time.monotonic() > last:
            raise AssertionError(f"waited {seconds} s for {what() if callable(what) else what}")
        time.sleep(_LOOK)
