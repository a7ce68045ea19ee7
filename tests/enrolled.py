"""A hospital that has enrolled in a consortium of its own, with studies that were offered to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedward.client.enrolment import accept_answer, prepare, request_enrolment
from fedward.client.hospital import HospitalFile, read_hospital
from fedward.client.offers import file_offer
from fedward.models.registry import settled
from fedward.privacy.consortium import Consortium
from fedward.privacy.identity import Identity
from fedward.study.study import Study

NOBODY = "127.0.0.1:9"
"""An address at which nobody answers."""


@dataclass(frozen=True)
class Enrolled:
    """A hospital's file, and the coordinator that admitted it."""

    path: Path
    consortium: Consortium

    @property
    def folder(self) -> Path:
        return self.path.parent

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def studies(self) -> Path:
        return self.folder / "studies"

    def file(self) -> HospitalFile:
        return read_hospital(self.path)

    def identity(self) -> Identity:
        return Identity.load(self.folder / "identity.pem")

    def offer(self, study: Study) -> str:
        """Offer a study as an aggregator would; gives its digest."""
        study = settled(study)
        file_offer(self.consortium.sign(study), study.digest(), self.file(), self.studies)
        return study.digest()

    def add(self, table: str, keys: Mapping[str, object]) -> None:
        lines = [f"\n[{table}]", *(f"{key} = {value}" for key, value in keys.items()), ""]
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n".join(lines))


def enrol(folder: Path, *names: str, address: str = NOBODY) -> list[Enrolled]:
    """Hospitals of one consortium, each in a folder of its own; rosters hold all of them."""
    consortium = Consortium.found(folder / "k", address)
    found = []
    for name in names:
        path = folder / name / "hospital.toml"
        path.parent.mkdir()
        prepare(path, name)
        document, _ = request_enrolment(path)
        consortium.admit(document)
        found.append(Enrolled(path, consortium))
    for one in found:
        answer = consortium.admit(request_enrolment(one.path)[0])
        accept_answer(one.path, answer, _coordinator(consortium))
    return found


def _coordinator(consortium: Consortium) -> bytes:
    return Identity.load(consortium.roster_path.parent / "coordinator.pem").public
