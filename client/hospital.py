"""The hospital's own file, `hospital.toml`: where its data is, its limits, its device.

It never leaves the hospital, and it is stronger than any study: a study may ask for less privacy
budget than the limit here, never for more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, Field, model_validator

from fedward.client.data.sources import Source
from fedward.privacy.address import split_address
from fedward.privacy.public_file import write_public
from fedward.privacy.roster import is_name
from fedward.study.errors import HospitalError, OptionError
from fedward.study.frozen import Fault, Frozen, parse_toml, read_toml, validate


class Limits(Frozen):
    """What this hospital allows at most.

    Attributes:
        epsilon: Privacy budget of this data over all studies; no limit if left out.
        delta: At which epsilon is counted over all studies; needed beside epsilon, for at a study's
            own delta a generous study would seem to cost little.
        declared_patients: Public number of training patients, the hospital's weight and divisor
            when privacy is on. It must be declared, never counted, because a count would tell
            whether one more patient is there.
        records_at_once: Most records whose gradients are kept apart at the same time when privacy
            is on; fewer need less memory, and change nothing else.
    """

    epsilon: Annotated[float, Field(gt=0)] | None = None
    delta: Annotated[float, Field(gt=0, lt=1)] | None = None
    declared_patients: Annotated[int, Field(ge=1)] | None = None
    records_at_once: Annotated[int, Field(ge=1)] = 4096

    @model_validator(mode="after")
    def _cap_is_whole(self) -> Limits:
        if self.epsilon is not None and self.delta is None:
            raise ValueError("delta beside epsilon: at which delta the budget is counted")
        return self


def _reachable(address: str) -> str:
    split_address(address)
    return address


class Consortium(Frozen):
    """What makes this hospital a member of a consortium; secure sums need it.

    Attributes:
        roster: File of the members' names and public keys, signed by the coordinator.
        coordinator: The coordinator's public key, 64 hexadecimal digits, as compared by telephone.
        identity: File of this hospital's own private key, which never leaves it.
        transport: File of the private key by which this machine connects; with the two below, or
            none of the three: a pretended hospital connects to nobody.
        ca: File of the certificate of the consortium's authority, by which the aggregator is known.
        address: Where the aggregator is reached, `host:port`.
    """

    roster: str = "roster.json"
    coordinator: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    identity: str = "identity.pem"
    transport: str | None = None
    ca: str | None = None
    address: Annotated[str, AfterValidator(_reachable)] | None = None

    @model_validator(mode="after")
    def _connects_or_not(self) -> Consortium:
        together = (self.transport, self.ca, self.address)
        if None in together and any(together):
            raise ValueError("transport, ca and address together, or none of them")
        return self


class TrainingSettings(Frozen):
    """How this hospital's machine trains and judges; no study says a word about it.

    Attributes:
        precision: Of the products inside the network. Parameters, losses, updates, and whatever
            protects patients, are float32 whatever it is.
        memory_gib: Most memory: of the process on a CPU, of the device on CUDA; no limit if left
            out. The libraries alone need half a GiB.
        threads: Processor threads of one process; as PyTorch chooses if left out.
        gradients: Who bounds patients' gradients in private studies: Fedward's engine, or Opacus'
            hooks, which are slower. They are the same up to rounding.
    """

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    memory_gib: Annotated[float, Field(ge=1)] | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    gradients: Literal["fedward", "opacus"] = "fedward"


class CacheSettings(Frozen):
    """Where decoded images and signals are kept, so that they are decoded once.

    Attributes:
        folder: Relative to this file; `cache` in the folder of state if left out.
        gib: Most that they take of the disk. The least recently used make room for others; what has
            no room is decoded whenever it is read.
    """

    folder: Annotated[str, Field(min_length=1)] | None = None
    gib: Annotated[float, Field(ge=0, le=2**20)] = 32.0


class DaemonSettings(Frozen):
    """How the daemon asks the aggregator for work.

    Attributes:
        poll_seconds: Between two questions while a round is near.
        idle_seconds: Between two questions when nothing has come for long.
        longest_pause_seconds: Between two tries to reach an aggregator that is not there.
        deadline_seconds: For one message; the worker that needs longer is ended.
        metrics_port: Of the figures for Prometheus, on loopback; none if left out.
    """

    poll_seconds: Annotated[float, Field(ge=0.01, le=60)] = 0.02
    idle_seconds: Annotated[float, Field(ge=0.01, le=600)] = 2.0
    longest_pause_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    deadline_seconds: Annotated[float, Field(ge=1, le=7 * 86400)] = 86400.0
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = None


class Pretended(Frozen):
    """Only in a simulation: randomness from a seed, so that a run can be repeated.

    Seeded noise protects nobody; results of a simulation say so.
    """

    seed: Annotated[int, Field(ge=0, lt=2**63)]


def _possible(name: str) -> str:
    if not is_name(name):
        raise ValueError("1 to 100 printable characters (Unicode NFC), no space at the ends")
    return name


class HospitalFile(Frozen):
    """A whole hospital file, read and checked.

    Attributes:
        name: What the hospital is called in the federation.
        device: `auto` takes CUDA, then MPS, then the CPU.
        studies: Folder of approved study files, relative to this file.
        state: Folder for the ledger and the journal, relative to this file.
        models: Folder of pretrained models, one in each of its folders, relative to this file; a
            study names a model by its digest, and none ever comes from the aggregator.
        data: Where the records are.
        limits: What the hospital allows at most.
        training: How its machine trains and judges.
        cache: Where decoded records are kept.
        consortium: Keys for secure sums; none if the hospital is in no consortium.
        daemon: How the daemon asks the aggregator for work.
        simulation: Set in a simulation only.
    """

    name: Annotated[str, AfterValidator(_possible)]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    studies: str = "studies"
    state: str = "state"
    models: Annotated[str, Field(min_length=1)] | None = None
    data: Annotated[Source, Field(discriminator="format")]
    limits: Limits = Limits()
    training: TrainingSettings = TrainingSettings()
    cache: CacheSettings = CacheSettings()
    consortium: Consortium | None = None
    daemon: DaemonSettings = DaemonSettings()
    simulation: Pretended | None = None


def models_of(hospital: HospitalFile, folder: Path) -> Path | None:
    """The hospital's folder of pretrained models.

    Args:
        hospital: The hospital's file.
        folder: Folder of that file.
    """
    return None if hospital.models is None else folder / hospital.models


def read_hospital(path: Path) -> HospitalFile:
    """Read a hospital file.

    Raises:
        HospitalError: A key is unknown, has the wrong type or an impossible value.
        DataError: The file cannot be read.
    """
    return _checked(read_toml(path, what="hospital"), path)


def parse_hospital(text: str, path: Path) -> HospitalFile:
    """Read the text that a hospital file has, or would have.

    Raises:
        HospitalError: A key is unknown, has the wrong type or an impossible value.
        DataError: It is not TOML.
    """
    return _checked(parse_toml(text, where=str(path)), path)


def _checked(values: dict[str, Any], path: Path) -> HospitalFile:
    hospital = validate(HospitalFile, values)
    if isinstance(hospital, Fault):
        raise HospitalError(hospital.key, given=hospital.given, allowed=hospital.allowed, file=path)
    return hospital


def refuse_pretended(hospital: HospitalFile, path: Path) -> None:
    """Raise if a real hospital would pretend: its noise would protect nobody.

    Args:
        hospital: What its file says.
        path: That file.

    Raises:
        OptionError: It has the table [simulation].
    """
    if hospital.simulation is not None:
        raise OptionError(
            "a real hospital with [simulation]: noise from a seed protects nobody",
            todo="take the table [simulation] out of hospital.toml, and start again",
            where=str(path),
        )


def write_hospital(hospital: HospitalFile, path: Path) -> None:
    """Write a hospital file, leaving out what has its default value.

    Raises:
        DataError: It cannot be written; what was there before is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    values = hospital.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    write_public(path, tomli_w.dumps(values).encode())
