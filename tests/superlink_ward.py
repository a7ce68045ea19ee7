"""A real SuperLink over TLS with node authentication, whose ServerApp is the test itself."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from flwr.app import Message, RecordDict
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import run_from_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

BIN = Path(sys.executable).parent
BUNDLE = """
[project]
name = "ward"
version = "1.0.0"
description = "Nothing but names of installed code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedward"

[tool.flwr.app.components]
serverapp = "fedward.server.app:app"
clientapp = "fedward.client.app:app"

[tool.flwr.app.config]
study = ""
out = ""
seed = 0
"""


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def until(true: object, *, seconds: float = 30.0, what: object = "it") -> None:
    """Wait until a condition holds; the test fails if it never does."""
    last = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < last, (
            f"waited {seconds} s for {what() if callable(what) else what}"
        )
        time.sleep(0.02)


class Authority:
    """A consortium's certificate authority, and what it signs."""

    def __init__(self, name: str = "ward") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        made = self._builder(self.name, self.key, days=(-1, 30)).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.pem = made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def certify(
        self,
        folder: Path,
        *,
        days: tuple[int, int] = (-1, 30),
        host: str = "127.0.0.1",
    ) -> tuple[Path, Path]:
        """Certificate and key of a server, valid from and until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "aggregator")])
        made = self._builder(name, key, days=days).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        certificate, secret = folder / "server.pem", folder / "server-key.pem"
        certificate.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        secret.write_bytes(pem_of(key))
        return certificate, secret

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: tuple[int, int]
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + datetime.timedelta(days=days[0]))
            .not_valid_after(now + datetime.timedelta(days=days[1]))
        )


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class Ward:
    """One SuperLink process; start, kill and start it again as often as wanted."""

    def __init__(self, folder: Path, *, isolation: str = "process") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.isolation = isolation
        self.authority = Authority()
        self.certificate, self.key = self.authority.certify(folder)
        (folder / "ca.pem").write_bytes(self.authority.pem)
        self.secret = secrets.token_bytes(32)
        (folder / "secret").write_bytes(self.secret)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }

    @property
    def log(self) -> str:
        return (self.folder / "superlink.log").read_text("utf-8", "replace")

    def start(self) -> None:
        words: list[object] = [BIN / "flower-superlink", "--enable-supernode-auth"]
        words += ["--host", "127.0.0.1", "--port", self.port, "--isolation", self.isolation]
        words += ["--ssl-certfile", self.certificate, "--ssl-keyfile", self.key]
        words += ["--ssl-ca-certfile", self.folder / "ca.pem"]
        words += ["--database", self.folder / "state.sqlite"]
        if self.isolation == "process":
            words += ["--superexec-auth-secret-file", self.folder / "secret"]
        else:
            words += ["--disable-runtime-dependency-installation"]
        with (self.folder / "superlink.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(word) for word in words], env=self.environment, stdout=log, stderr=log
            )
        until(self._answers, seconds=60, what="the SuperLink")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    @contextmanager
    def control(self) -> Iterator[ControlHttpClient]:
        with ControlHttpClient.from_server_address(
            self.address, False, self.authority.pem, interceptors=[]
        ) as client:
            yield client

    def register(self, key: ec.EllipticCurvePrivateKey) -> int:
        with self.control() as client:
            return int(client.RegisterNode(RegisterNodeRequest(public_key=public_pem(key))).node_id)

    def unregister(self, node: int) -> None:
        with self.control() as client:
            client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def online(self) -> set[int]:
        with self.control() as client:
            nodes = client.ListNodes(ListNodesRequest()).nodes_info
            return {int(node.node_id) for node in nodes if node.status == "online"}

    def submit(self, config: dict[str, str] | None = None) -> int:
        """Start a run of the bundle that holds no code."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Flower's own
            content, _ = build_fab_from_files({"pyproject.toml": BUNDLE.encode()})
        request = StartRunRequest(fab=Fab(hash_str=_sha(content), content=content))
        for key, value in (config or {}).items():
            request.override_config[key].string = value
        with self.control() as client:
            return int(client.StartRun(request).run_id)

    def end(self, run: int) -> None:
        with self.control() as client:
            client.StopRun(StopRunRequest(run_id=run))

    def paths(self) -> list[str]:
        """What was asked for, as the SuperLink's own access log says."""
        return [
            line.split("POST ")[1].split()[0] for line in self.log.splitlines() if "POST " in line
        ]


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class ServerSide:
    """This process as the ServerApp of a new run, with Flower's own Grid."""

    def __init__(self, ward: Ward) -> None:
        self.ward = ward
        self.run = ward.submit()
        token = self._acquire()
        self.grid = HttpGrid(ward.address, False, ward.authority.pem, token=token)
        self._client: RuntimeHttpClient = self.grid._runtime_client
        given = self._client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        self.grid.set_run(run_from_proto(given.run))
        self._over = threading.Event()
        threading.Thread(target=self._beat, daemon=True).start()

    def _acquire(self) -> str:
        methods = {"/flwr.proto.Runtime/AcquireTask"}
        auth = SuperExecAuthHttpInterceptor(
            master_secret=self.ward.secret, protected_methods=methods
        )
        with RuntimeHttpClient.from_server_address(
            self.ward.address, False, self.ward.authority.pem, interceptors=[auth]
        ) as client:
            for _ in range(100):
                got = client.AcquireTask(
                    AcquireTaskRequest(supported_task_types=["flwr-serverapp"])
                )
                if got.token:
                    return str(got.token)
                time.sleep(0.1)
        raise AssertionError("no task: " + self.ward.log)

    def _beat(self) -> None:
        while not self._over.wait(5.0):
            try:
                self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
            except httpx.HTTPError:
                continue

    def ask(
        self, content: RecordDict, kind: str, nodes: Iterable[int], *, seconds: float = 60.0
    ) -> dict[int, RecordDict]:
        """What each node answers."""
        return self.take(self.give(content, kind, nodes), seconds=seconds)

    def give(
        self, content: RecordDict, kind: str, nodes: Iterable[int], *, ttl: float | None = None
    ) -> list[str]:
        messages = [Message(content, node, kind, ttl=ttl) for node in nodes]
        return list(self.grid.push_messages(messages))

    def take(self, asked: Iterable[str], *, seconds: float = 60.0) -> dict[int, RecordDict]:
        left, found, last = set(asked), {}, time.monotonic() + seconds
        while left:
            for reply in self.grid.pull_messages(list(left)):
                left.discard(reply.metadata.reply_to_message_id)
                found[reply.metadata.src_node_id] = reply.content
            assert time.monotonic() < last, f"no answer in {seconds} s"
            time.sleep(0.02 if left else 0)
        return found

    def close(self) -> None:
        self._over.set()
        self.grid.close()
