"""The aggregator's own file, `aggregator.toml`, and what the consortium's coordinator gave it.

The aggregator has no signing key. What it has been given is checked against the coordinator's
public key, which a person compared by telephone, every time that it is read.
"""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import tomli_w
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import AfterValidator, BeforeValidator, Field

from fedward.privacy.address import is_host, split_address
from fedward.privacy.certificates import LARGEST_PEM, check_server, request_certificate
from fedward.privacy.enrolment import claimed_coordinator as _claimed
from fedward.privacy.enrolment import fingerprint, read_answer, same_fingerprint
from fedward.privacy.key_file import read_key, unusable_key, write_key
from fedward.privacy.public_file import read_public
from fedward.privacy.roster import LARGEST_ROSTER, Roster, is_name, read_roster
from fedward.server.durable import write_aside
from fedward.server.lost_rounds import DEPLOYED
from fedward.server.tracker_targets import Targets
from fedward.study.errors import AggregatorError, DataError, InputError
from fedward.study.frozen import Fault, Frozen, read_toml, validate

Port = Annotated[int, Field(ge=1, le=65535)]


def _name(text: str) -> str:
    if not is_name(text):
        raise ValueError("1 to 100 printable characters (Unicode NFC), no space at the ends")
    return text


def _host(text: str) -> str:
    if not is_host(text):
        raise ValueError("a host name in small letters, or an IP address")
    return text


class RunSettings(Frozen):
    """How patient runs are with a round that too few hospitals answered.

    Attributes:
        repeats: How often such a round is asked again before the run pauses.
        wait_seconds: How long to wait before each time.
    """

    repeats: Annotated[int, Field(ge=1, le=1000)] = DEPLOYED.repeats
    wait_seconds: Annotated[float, Field(ge=0.1, le=86400)] = DEPLOYED.wait_seconds


def _listed(value: object) -> object:
    """A single text is a list of one: never an error that prints an address."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


class TrackingSettings(Frozen):
    """Where the figures of runs go, beside the runs' own folders.

    Attributes:
        to: Each `tensorboard:FOLDER` or `mlflow:URI`, looked at when the service starts.
        token_file: With MLflow's token, its owner's alone; none if left out.
    """

    to: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    token_file: Annotated[str, Field(min_length=1)] | None = None


class PageSettings(Frozen):
    """The page that the service shows on its own machine.

    Attributes:
        port: On loopback.
    """

    port: Port


class AggregatorFile(Frozen):
    """A whole aggregator file, read and checked. Paths are relative to it.

    Attributes:
        name: What people call this aggregator.
        host: Name or IP address under which hospitals reach it; the certificate names it.
        port: The one public port.
        listen: Address that the public port is opened on; empty for every one.
        state: Folder of the SuperLink's state and of the runs.
        models: Folder of pretrained models, which studies name by digest; none if left out.
        coordinator: The coordinator's public key, 64 hexadecimal digits; none before enrolment.
        roster: File of the members' names and public keys, signed by the coordinator.
        ca: The consortium's certificate authority, PEM.
        certificate: This aggregator's certificate and those above it, PEM.
        key: Its private key, which never leaves it.
        metrics: Port on loopback for Prometheus; none if left out.
        superlink: Port on loopback for the SuperLink; a free one if left out.
        messages: Where the SuperLink keeps messages under way: in `memory`, or, half as
            fast, on `disk`, for models that together are larger than the memory. Neither outlives
            a SuperLink that ended: every run is taken up from its own folder.
        runs: How patient runs are.
        tracking: Where the figures of runs go.
        page: The page for whoever runs the aggregator; none if left out.
    """

    name: Annotated[str, AfterValidator(_name)]
    host: Annotated[str, AfterValidator(_host)]
    port: Port = 9443
    listen: str = ""
    state: str = "state"
    models: Annotated[str, Field(min_length=1)] | None = None
    coordinator: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    roster: str = "roster.json"
    ca: str = "ca.pem"
    certificate: str = "certificate.pem"
    key: str = "tls-key.pem"
    metrics: Port | None = None
    superlink: Port | None = None
    messages: Literal["memory", "disk"] = "memory"
    runs: RunSettings = RunSettings()
    tracking: TrackingSettings = TrackingSettings()
    page: PageSettings | None = None


def read_aggregator(path: Path) -> AggregatorFile:
    """Read an aggregator file.

    Raises:
        AggregatorError: A key is unknown, has the wrong type or an impossible value.
        DataError: The file cannot be read.
    """
    found = validate(AggregatorFile, read_toml(path, what="aggregator"))
    if isinstance(found, Fault):
        raise AggregatorError(found.key, given=found.given, allowed=found.allowed, file=path)
    return found


def write_aggregator(file: AggregatorFile, path: Path) -> None:
    """Write an aggregator file, leaving out what has its default value and no meaning by itself."""
    values = file.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    write_aside(path, tomli_w.dumps({**values, "port": file.port}).encode())


class Aggregator:
    """An aggregator's folder.

    Args:
        path: Its `aggregator.toml`.

    Raises:
        AggregatorError: As for `read_aggregator`.
        DataError: As for `read_aggregator`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.file = read_aggregator(path)

    @property
    def state(self) -> Path:
        """Folder of everything that changes; made if it is not there."""
        folder = self.path.parent / self.file.state
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    @property
    def models(self) -> Path | None:
        """Folder of pretrained models, if it has one."""
        models = self.file.models
        return None if models is None else self.path.parent / models

    @property
    def tracking(self) -> Targets:
        """Where the figures of runs go."""
        wanted, here = self.file.tracking, self.path.parent
        token = None if wanted.token_file is None else str(here / wanted.token_file)
        return Targets(wanted.to, str(here), token)

    @property
    def roster_path(self) -> Path:
        """File of the roster."""
        return self.path.parent / self.file.roster

    @property
    def certificate_path(self) -> Path:
        """File of the certificate chain."""
        return self.path.parent / self.file.certificate

    @property
    def key_path(self) -> Path:
        """File of the TLS key."""
        return self.path.parent / self.file.key

    @property
    def coordinator(self) -> bytes:
        """The coordinator's public key, 32 bytes.

        Raises:
            AggregatorError: This aggregator is not enrolled.
        """
        if self.file.coordinator is None:
            raise AggregatorError(
                "coordinator",
                given="nothing",
                allowed="a key: run fedward aggregator enroll --answer FILE",
                file=self.path,
            )
        return bytes.fromhex(self.file.coordinator)

    def roster(self) -> Roster:
        """The members, as the coordinator signed them.

        Raises:
            DataError: The file cannot be read.
            ProtocolError: It is no roster of this coordinator.
        """
        return read_roster(_installed(self.roster_path, "roster", LARGEST_ROSTER), self.coordinator)

    def check_certificate(self) -> datetime:
        """Accept by returning: the certificate names this host and key, and is valid now.

        Returns:
            When it ends, UTC.

        Raises:
            DataError: A file cannot be read.
            ProtocolError: Hospitals would not accept the certificate.
        """
        return check_server(
            _installed(self.certificate_path, "certificate", LARGEST_PEM),
            ca=_installed(
                self.path.parent / self.file.ca, "certificate of the authority", LARGEST_PEM
            ),
            host=self.file.host,
            now=datetime.now(UTC),
            public=_public(self.key_path),
        )

    def request(self) -> bytes:
        """A request for a certificate (PKCS 10, PEM) for this host, signed by the TLS key.

        Raises:
            DataError: The key cannot be used.
        """
        return request_certificate(_key(self.key_path), [self.file.host])

    @property
    def fingerprint(self) -> str:
        """Of the TLS key, to be compared by telephone.

        Raises:
            DataError: The key cannot be used.
        """
        return fingerprint(_public(self.key_path))

    def enroll(self, document: bytes, coordinator: str) -> None:
        """Install an answer: roster, authority, certificate, and at last the coordinator's key.

        Args:
            document: The coordinator's answer.
            coordinator: Fingerprint of the coordinator's key, as compared by telephone.

        Raises:
            InputError: The fingerprint or the address is another, or there is no certificate.
            ProtocolError: The answer, or what is in it, cannot be believed.
        """
        claimed = _claimed(document)
        if not same_fingerprint(coordinator, fingerprint(claimed)):
            raise InputError(
                f"the answer is of a coordinator whose key is {fingerprint(claimed)}",
                todo="compare by telephone; if it differs there too, somebody forged the answer",
            )
        if self.file.coordinator not in {None, claimed.hex()}:
            raise InputError(
                "this aggregator is enrolled with another coordinator",
                todo="make a new folder with fedward aggregator init",
                where=str(self.path),
            )
        answer = read_answer(document, claimed)
        if not answer.certificate:
            raise InputError("the answer holds no certificate", todo="ask for an aggregator's")
        if split_address(answer.address)[0] != self.file.host:
            raise InputError(
                f"the answer is for {answer.address}, and this is {self.file.host}",
                todo="change host in aggregator.toml, or ask for another answer",
            )
        check_server(
            answer.certificate,
            ca=answer.ca,
            host=self.file.host,
            now=datetime.now(UTC),
            public=_public(self.key_path),
        )
        if self.file.coordinator is None or not self.roster_path.exists():
            write_aside(self.roster_path, answer.roster)
        else:
            with contextlib.suppress(_NotNewer):
                self.install_roster(answer.roster)
        write_aside(self.path.parent / self.file.ca, answer.ca)
        write_aside(self.certificate_path, answer.certificate)
        self.file = self.file.model_copy(update={"coordinator": claimed.hex()})
        write_aggregator(self.file, self.path)

    def install_roster(self, document: bytes) -> Roster:
        """Put a newer roster in the place of the one that is there; the same one stays.

        Raises:
            InputError: It is older, or another one of the same version.
            ProtocolError: It is no roster of this coordinator.
        """
        new = read_roster(document, self.coordinator)
        has = self.roster() if self.roster_path.exists() else None
        if has == new:
            return new
        if has is not None and new.version <= has.version:
            raise _NotNewer(
                f"this is {'another ' * (new.version == has.version)}roster {new.version}, "
                f"and roster {has.version} is installed",
                todo="ask the coordinator for the newest one",
            )
        write_aside(self.roster_path, document)
        return new


class _NotNewer(InputError):  # noqa: N818 - reads as the fact that it states
    """A roster that is older than the one that is there, or another one as old."""


def found_aggregator(path: Path, *, name: str, host: str, port: int) -> Aggregator:
    """Make an aggregator's folder: its file and its TLS key.

    Raises:
        AggregatorError: A value is impossible.
        DataError: There is one already, or it cannot be written.
    """
    found = validate(AggregatorFile, {"name": name, "host": host, "port": port})
    if isinstance(found, Fault):
        raise AggregatorError(found.key, given=found.given, allowed=found.allowed)
    if path.exists():
        raise DataError("there is one already", todo="choose another folder", where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_key(path.parent / found.key, ec.generate_private_key(ec.SECP256R1()))
    write_aggregator(found, path)
    return Aggregator(path)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = read_key(path)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise unusable_key(path, "the key is of another kind than EC")
    return key


def _public(path: Path) -> bytes:
    return _key(path).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _installed(path: Path, what: str, largest: int) -> bytes:
    """A file of the coordinator's answer."""
    todo = "install the coordinator's answer: fedward aggregator enroll --answer FILE"
    return read_public(path, what=what, largest=largest, todo=todo)
