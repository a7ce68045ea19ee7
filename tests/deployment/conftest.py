"""A SuperLink that the tests of one process share, and a hospital with a daemon at it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import RecordDict

from fedward.client.daemon import Daemon, make_daemon
from fedward.client.data.sources import CsvSource
from fedward.client.happenings import Happening, WorkerRestarted
from fedward.client.hospital import Consortium, DaemonSettings, HospitalFile, write_hospital
from fedward.models import flat
from fedward.models.registry import build
from fedward.study.messages import TRAIN, Answer, TrainRequest
from fedward.study.study import Study
from fedward.study.wire import pack_request, unpack_answer
from tests.secure_sites import study_of
from tests.superlink_ward import ServerSide, Ward, pem_of, until

Kind = TypeVar("Kind")


@pytest.fixture(scope="session")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """A SuperLink that no test stops."""
    ward = Ward(tmp_path_factory.mktemp("ward"))
    ward.start()
    yield ward
    ward.stop()


@dataclass
class Hospital:
    """A hospital's folder, its daemon in a thread, and all that happened at it."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    happened: list[Happening] = field(default_factory=list)
    daemon: Daemon | None = None
    thread: threading.Thread | None = None

    @property
    def file(self) -> Path:
        return self.folder / "hospital.toml"

    @property
    def log(self) -> Path:
        return self.folder / "state" / "audit.jsonl"

    def start(self) -> Hospital:
        self.daemon = make_daemon(self.file, [self.happened.append])
        self.thread = threading.Thread(target=self.daemon.run, daemon=True)
        self.thread.start()
        return self

    def stop(self, grace: float = 20.0) -> None:
        if self.daemon is not None and self.thread is not None:
            self.daemon.stop(grace)
            self.thread.join(grace + 20)
            assert not self.thread.is_alive()
            self.daemon = None

    def all(self, kind: type[Kind]) -> list[Kind]:
        return [what for what in self.happened if isinstance(what, kind)]

    def first(self, kind: type[Kind], *, seconds: float = 30.0, after: int = 0) -> Kind:
        """What happened of this kind, once so many others of it did."""
        until(lambda: len(self.all(kind)) > after, seconds=seconds, what=kind.__name__)
        return self.all(kind)[after]

    def worker(self) -> int:
        """The number of the worker's process."""
        assert self.daemon is not None
        number = self.daemon._worker.pid  # type: ignore[attr-defined]
        assert number is not None
        return int(number)

    def approve(self, study: Study) -> Study:
        import tomli_w

        folder = self.folder / "studies"
        folder.mkdir(exist_ok=True)
        text = tomli_w.dumps(study.model_dump(mode="json", exclude_none=True))
        (folder / f"{study.digest()[:16]}.toml").write_text(text, encoding="utf-8")
        return study


Open = Callable[..., Hospital]


@pytest.fixture
def open_hospital(tmp_path: Path) -> Iterator[Open]:
    """Open hospitals at a ward; their daemons are stopped afterwards."""
    opened: list[Hospital] = []

    def open_(ward: Ward, name: str = "north", **daemon: Any) -> Hospital:  # noqa: ANN401
        folder = tmp_path / name
        folder.mkdir()
        rng = np.random.default_rng(5)
        sick = np.arange(60) % 2
        ages, sizes = rng.normal(size=(2, 60)) + 1.5 * sick
        words = np.array(["benign", "malignant"])[sick]
        lines = [f"{a},{s},{w}" for a, s, w in zip(ages, sizes, words, strict=True)]
        (folder / "t.csv").write_text("\n".join(["age,size,diagnosis", *lines]) + "\n", "utf-8")
        key = ec.generate_private_key(ec.SECP384R1())
        (folder / "transport.pem").write_bytes(pem_of(key))
        (folder / "transport.pem").chmod(0o600)
        (folder / "ca.pem").write_bytes(ward.authority.pem)
        hospital = HospitalFile(
            name=name,
            device="cpu",
            data=CsvSource(format="csv", path="t.csv"),
            consortium=Consortium(
                coordinator="0" * 64,
                transport="transport.pem",
                ca="ca.pem",
                address=ward.address,
            ),
            daemon=DaemonSettings.model_validate({"idle_seconds": 0.1, **daemon}),
        )
        write_hospital(hospital, folder / "hospital.toml")
        opened.append(Hospital(folder, key))
        return opened[-1]

    yield open_
    for hospital in opened:
        hospital.stop(grace=0.1)


@pytest.fixture
def server(ward: Ward) -> Iterator[ServerSide]:
    """The server's side of a new run at the shared SuperLink."""
    side = ServerSide(ward)
    yield side
    side.close()
    ward.end(side.run)


def quick_study() -> Study:
    """A study without secure sums, whose rounds take no time, and go the same way each time."""
    return study_of(aggregation={"secure": False}, training={"batch_size": "all"})


def endless_study() -> Study:
    """A study whose rounds last longer than any test."""
    return study_of(
        study={"name": "endless"},
        aggregation={"secure": False},
        training={"local_epochs": 10_000, "batch_size": 1},
    )


def training(study: Study, number: int = 1) -> TrainRequest:
    """What the server asks in a round."""
    start = flat.flatten(build(study, seed=1))
    return TrainRequest(study=study.digest(), run="run-1", round=number, model=start)


def asked(
    server: ServerSide, node: int, request: TrainRequest, *, seconds: float = 60.0
) -> RecordDict:
    """What a hospital answers, as it comes."""
    return server.ask(pack_request(request), TRAIN, [node], seconds=seconds)[node]


def answer_of(records: RecordDict, study: Study) -> Answer:
    """What a hospital answers, unpacked."""
    size = len(training(study).model)
    try:
        return unpack_answer(records)
    except Exception:
        found = records.config_records["terms"]["float32"]
        assert isinstance(found, bytes)
        assert len(found) // 4 >= size
        return unpack_answer(records, size=len(found) // 4)


def kill(hospital: Hospital) -> None:
    """End the worker with signal 9, as an exhausted memory does."""
    import os
    import signal

    os.kill(hospital.worker(), signal.SIGKILL)
    hospital.first(WorkerRestarted, after=len(hospital.all(WorkerRestarted)))
    time.sleep(0)
