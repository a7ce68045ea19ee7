"""A whole consortium on one machine, as it would be on many: every part a process of its own.

Nothing is pretended but the data's division: keys are made and enrolled, certificates issued, the
study is signed, offered, approved, and trained over TLS through a real SuperLink.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from fedward.client.enrolment import accept_answer, prepare, request_enrolment
from fedward.client.hospital import read_hospital, write_hospital
from fedward.client.offers import approve
from fedward.privacy.consortium import Consortium
from fedward.privacy.enrolment import fingerprint
from fedward.server.aggregator import Aggregator, found_aggregator
from fedward.server.run_registry import RunFolder, RunRecord, RunRegistry
from fedward.simulation.hospitals import divide
from fedward.study.errors import FederationError
from fedward.study.study import Study

_LOOK = 0.1  # seconds between looks at what another process does
_GRACE = 20.0  # seconds that a process has to end by itself
_ENDED = {"finished", "failed", "paused", "stopped"}

Say = Callable[[str], None]


@dataclass
class Part:
    """One process of the deployment.

    Attributes:
        command: Words after `fedward`.
        log: Where its output goes.
    """

    command: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        environment = {**os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                [str(Path(sys.executable).with_name("fedward")), *self.command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def refuse_ended(self, name: str) -> None:
        """Raise if it ended by itself, with the last line that it said.

        Raises:
            FederationError: It did.
        """
        if self.process is not None and self.process.poll() is not None:
            said = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((line for line in reversed(said) if line.strip()), "it said nothing")
            raise FederationError(f"{name} has ended: {last}", where=str(self.log))

    def tell(self, number: int) -> None:
        """Signal it, if it runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Signal it and wait until it is gone."""
        if self.process is None:
            return
        self.tell(number)
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Deployment:
    """A consortium in a folder; `found` makes it, `with` starts and ends its processes.

    Attributes:
        folder: Everything of it.
        consortium: The coordinator's side.
        aggregator: The file of the aggregator.
        hospitals: Each hospital's file, by its name.
        parts: The processes, by name.
    """

    folder: Path
    consortium: Consortium
    aggregator: Path
    hospitals: dict[str, Path]
    parts: dict[str, Part] = field(default_factory=dict)

    @classmethod
    def found(
        cls, study: Study, data: Path | None, folder: Path, *, seed: int, port: int = 0
    ) -> Deployment:
        """Divide the data, make all keys, and enrol everybody.

        Args:
            study: Says how the data is divided.
            data: The data set; None for one that comes with a library.
            folder: New or empty.
            seed: Of the division.
            port: Public port of the aggregator; a free one if 0.

        Raises:
            InputError: The data cannot be read or divided, or the folder holds something.
        """
        port = port or _free_port()
        consortium = Consortium.found(folder / "coordinator", f"127.0.0.1:{port}")
        told = fingerprint(consortium.coordinator)  # on one machine nobody needs a telephone
        file = folder / "aggregator" / "aggregator.toml"
        aggregator = found_aggregator(file, name="aggregator", host="127.0.0.1", port=port)
        files = {read_hospital(p).name: p for p in divide(study, data, folder / "hospitals", seed)}
        for name, path in files.items():
            real = read_hospital(path).model_copy(update={"simulation": None})
            write_hospital(real, path)
            prepare(path, name)
            request, _ = request_enrolment(path)
            consortium.admit(request)
        for path in files.values():
            accept_answer(path, consortium.answer(), consortium.coordinator)
        aggregator.enroll(consortium.answer(consortium.certify(aggregator.request())), told)
        made = cls(folder, consortium, file, files)
        made.parts = {
            "aggregator": Part(
                ("aggregator", "start", "--aggregator", str(file)), file.with_name("log.txt")
            ),
            **{name: _daemon(path) for name, path in files.items()},
        }
        return made

    def __enter__(self) -> Deployment:
        """Start every process."""
        for part in self.parts.values():
            part.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process: all are told first, and then waited for."""
        for part in self.parts.values():
            part.tell(signal.SIGTERM)
        for part in self.parts.values():
            part.end()

    def submit(self, study: Study, *, seed: int, name: str = "") -> RunFolder:
        """Have a study signed and submit it; hospitals have not approved it yet."""
        service = Aggregator(self.aggregator)
        signed = self.consortium.sign(study)
        registry = RunRegistry(service.state / "runs")
        return registry.create(
            study, signed, seed=seed, roster=self.consortium.roster.version, name=name
        )

    def approve(self, study: Study, *, seconds: float = 120.0) -> None:
        """Approve a study at every hospital, as soon as its offer is there.

        Raises:
            FederationError: The offer did not come in time.
        """
        digest, last = study.digest(), time.monotonic() + seconds
        for name, path in self.hospitals.items():
            hospital = read_hospital(path)
            studies = path.parent / hospital.studies
            while not (studies / "offered" / f"{digest}.json").exists():
                self.parts[name].refuse_ended(name)
                self._refuse_late(last, f"the study was not offered to {name}")
                time.sleep(_LOOK)
            approve(digest, hospital, studies)

    def wait(self, run: RunFolder, *, seconds: float, say: Say = lambda _: None) -> RunRecord:
        """Wait until a run ended one way or another; every change of its state is said.

        Raises:
            FederationError: It did not end in time.
        """
        last, told = time.monotonic() + seconds, ""
        while True:
            record = run.record
            line = f"{record.name}: {record.state} {record.reason}".rstrip()
            if line != told:
                say(told := line)
            if record.state in _ENDED:
                return record
            self._refuse_late(last, f"{record.name} is still {record.state}")
            time.sleep(_LOOK)

    def _refuse_late(self, last: float, what: str) -> None:
        if time.monotonic() > last:
            raise FederationError(
                what, todo=f"see the files log.txt in the folders of {self.folder}"
            )


def _daemon(path: Path) -> Part:
    return Part(("hospital", "start", "--hospital", str(path)), path.with_name("log.txt"))


def _free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])
