"""A stock Flower SuperLink on loopback: its process, its hospitals' keys, its runs.

On the aggregator's side Flower's private names stand here, in `doorkeeper.py` and in `pulling.py`.
They were read in Flower 1.41 and are tested against that version; another one is refused with one
line.

The SuperLink listens on 127.0.0.1 alone. Whoever reaches that port can start programs as this user,
so only the gate stands between it and the world, and no other person belongs on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

import flwr
import httpx
import psutil
import tomli_w
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from fedward.privacy.transport import transport_pem
from fedward.server.durable import write_aside
from fedward.server.loopback import write_loopback_certificate
from fedward.server.lost_rounds import DEPLOYED
from fedward.study.errors import ServiceError

TESTED = "1.41."
HOST = "127.0.0.1"
FLEET = b"/v1/fleet/"
"""Where the paths of the hospitals' API begin; everything else is for the aggregator alone."""

FORWARDED = (b"accept", b"content-type", b"flwr-")
"""Beginnings of the request headers that the hospitals' API reads."""

_CHUNK = 8 << 20  # bytes of an array in one object, and so in one request; hospitals do the same
_READY_SECONDS = 90.0
_STOP_SECONDS = 10.0
_EXECUTOR = "flower-superexec"
_OUR_PROGRAMS = ("flower-superlink", _EXECUTOR, "flwr-serverapp")
_GONE = "unregistered"
_IN_MEMORY = Path(FLWR_IN_MEMORY_DB_NAME)

RunState = Literal["waiting", "running", "completed", "failed", "stopped"]


@dataclass(frozen=True)
class Node:
    """A hospital as the SuperLink knows it.

    Attributes:
        number: Given by the SuperLink.
        key: Public transport key, EC P-384, SubjectPublicKeyInfo in DER.
        name: As in the roster; empty if the SuperLink was not told.
        online: Whether it gave a sign of life lately.
    """

    number: int
    key: bytes
    name: str
    online: bool


def check_version() -> None:
    """Refuse to run on a Flower that this file was not tested with.

    Raises:
        ServiceError: The installed version is another one.
    """
    if not flwr.__version__.startswith(TESTED):
        raise ServiceError(
            f"Flower {flwr.__version__} is installed, and Fedward was tested with {TESTED}x only",
            todo="run: pip install 'flwr>=1.41,<1.42'",
        )


def app_bundle() -> bytes:
    """The app bundle of every run: a pyproject.toml that names installed code, and nothing else."""
    project = {
        "project": {
            "name": "fedward",
            "version": version("fedward"),
            "description": "Names installed code only.",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fedward",
                    "components": {
                        "serverapp": "fedward.server.app:app",
                        "clientapp": "fedward.client.app:app",
                    },
                    "config": {
                        **{"folder": "", "repeats": DEPLOYED.repeats},
                        **{"wait_seconds": DEPLOYED.wait_seconds},
                        **{"study": "", "hospitals": "", "out": "", "seed": 0},
                    },
                }
            }
        },
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Flower's, of the way it uses pathspec
        return build_fab_from_files({"pyproject.toml": tomli_w.dumps(project).encode()})[0]


def child_environment(home: Path) -> dict[str, str]:
    """This process's environment for Flower's: without its settings, proxies and chatter.

    A setting such as FLWR_INTERNAL_GRPC_CONTROL_API, inherited, would open another port.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLWR_") and not name.lower().endswith("_proxy")
    }
    bin_folder = str(Path(sys.executable).parent)
    return kept | {
        "PATH": os.pathsep.join(filter(None, [bin_folder, os.environ.get("PATH", "")])),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(_CHUNK),
        "PYTHONUNBUFFERED": "1",
    }


class SuperLink:
    """One SuperLink process and its Control API.

    Args:
        folder: For its state, its certificate and Flower's own files; kept between starts.
        output: Where the process writes what it has to say.
        port: On loopback; a free one if None.
        on_disk: Whether messages under way, nodes and runs are in SQLite, or else in memory, which
            is several times as fast and loses nothing that whoever starts it does not know.
    """

    def __init__(
        self,
        folder: Path,
        *,
        output: IO[bytes] | int | None = None,
        port: int | None = None,
        on_disk: bool = False,
    ) -> None:
        check_version()
        self.folder = folder.absolute()
        self.port = 0
        self._wanted_port = port
        self._on_disk = on_disk
        self._output = subprocess.DEVNULL if output is None else output
        self._process: subprocess.Popen[bytes] | None = None
        self._executor: psutil.Process | None = None
        self._control: ControlHttpClient | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the running process."""
        return HOST, self.port

    @property
    def pid(self) -> int | None:
        """Number of the running process; None if there is none."""
        return self._process.pid if self._process and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether the process runs, and the one by which it starts runs.

        Flower does not look after that one: without it, whatever is to run waits for ever.
        """
        if self._process is None or self._process.poll() is not None:
            return False
        return self._executor is None or _runs(self._executor)

    def trust(self) -> ssl.SSLContext:
        """TLS settings for a connection to this SuperLink: its own certificate and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.folder / "loopback.pem")
        return context

    def start(self) -> None:
        """Start the process and wait until it answers; end first what an earlier one left behind.

        Raises:
            ServiceError: It ended at once, or did not answer in time.
        """
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder.chmod(0o700)
        self._end_leftovers()
        certificate, key = write_loopback_certificate(self.folder, HOST)
        self.port = self._wanted_port or _free_port()
        write_aside(self.folder / "port.json", json.dumps({"port": self.port}).encode())
        # start_new_session: Ctrl-C on the supervisor's terminal is the supervisor's to handle.
        self._process = subprocess.Popen(  # noqa: S603
            self._command(certificate, key),
            cwd=self.folder,
            env=child_environment(self.folder / "flower"),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
        try:
            self._wait_until_ready()
            self._executor = self._find_executor()
        except BaseException:
            self.stop()
            raise
        self._control = _LoopbackControl.from_server_address(
            f"{HOST}:{self.port}",
            insecure=False,
            root_certificates=certificate.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def stop(self) -> None:
        """End the process and all that it started; nothing happens if there is none."""
        if self._control is not None:
            self._control.close()
            self._control = None
        self._executor = None
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        self._end_leftovers()

    def register(self, name: str, key: bytes) -> int:
        """Let a hospital in.

        Args:
            name: As in the roster, for people who read the SuperLink's lists.
            key: Public transport key, EC P-384, SubjectPublicKeyInfo in DER.

        Returns:
            The number that the SuperLink gave it.

        Raises:
            ServiceError: The SuperLink refused the key, or does not answer.
        """
        answer = self._ask("RegisterNode", RegisterNodeRequest(public_key=_pem(key), name=name))
        return int(answer.node_id)

    def remove(self, number: int) -> None:
        """Let a hospital in no longer.

        Raises:
            ServiceError: There is no such node, or the SuperLink does not answer.
        """
        self._ask("UnregisterNode", UnregisterNodeRequest(node_id=number))

    def nodes(self) -> list[Node]:
        """Every hospital that may come in.

        Raises:
            ServiceError: The SuperLink does not answer.
        """
        answer = self._ask("ListNodes", ListNodesRequest())
        return [
            Node(int(node.node_id), _der(node.public_key), node.name, node.status == "online")
            for node in answer.nodes_info
            if node.status != _GONE
        ]

    def start_run(self, config: Mapping[str, str | int | float]) -> int:
        """Start the installed apps.

        Args:
            config: The run's configuration: `folder`, `repeats` and `wait_seconds`, or `study`,
                `hospitals`, `out` and `seed`.

        Returns:
            The run's number.

        Raises:
            ServiceError: The SuperLink refused the configuration, or does not answer.
        """
        bundle = app_bundle()
        request = StartRunRequest(
            fab=fab_to_proto(Fab("", bundle, {})),
            override_config=user_config_to_proto(dict(config)),
        )
        answer = self._ask("StartRun", request)
        if not answer.HasField("run_id"):
            raise ServiceError("the SuperLink started no run", todo="look into its log")
        return int(answer.run_id)

    def stop_run(self, number: int) -> None:
        """End a run at once; nothing happens if it has ended.

        Raises:
            ServiceError: There is no such run, or the SuperLink does not answer.
        """
        if self.run_state(number)[0] in {"waiting", "running"}:
            self._ask("StopRun", StopRunRequest(run_id=number))

    def run_state(self, number: int) -> tuple[RunState, str]:
        """How a run stands, and why it ended if it failed.

        Raises:
            ServiceError: There is no such run, or the SuperLink does not answer.
        """
        found = self._states(ListRunsRequest(run_id=number))
        if number not in found:
            raise ServiceError(f"the SuperLink knows no run {number}", todo="look into its log")
        return found[number]

    def runs(self) -> dict[int, tuple[RunState, str]]:
        """The newest runs, at most 200, by number.

        Raises:
            ServiceError: The SuperLink does not answer.
        """
        return self._states(ListRunsRequest(limit=200))

    def _states(self, request: ListRunsRequest) -> dict[int, tuple[RunState, str]]:
        answer = self._ask("ListRuns", request)
        return {int(number): _state(run.status) for number, run in answer.run_dict.items()}

    def _ask(self, call: str, request: object) -> Any:  # noqa: ANN401 - protobuf's own classes
        if self._control is None:
            raise ServiceError("the SuperLink does not run", todo="start the aggregator")
        try:
            return getattr(self._control, call)(request)
        except httpx.HTTPStatusError as error:
            said = " ".join(error.response.text.split())
            raise ServiceError(
                f"the SuperLink refused {call} ({error.response.status_code} {said:.300})",
                todo="look into its log",
            ) from None
        except (httpx.HTTPError, ValueError) as error:
            raise ServiceError(
                f"the SuperLink does not answer {call} ({type(error).__name__})",
                todo="look into its log",
            ) from None

    def _command(self, certificate: Path, key: Path) -> list[str]:
        program = Path(sys.executable).with_name("flower-superlink")
        paths = {
            "--ssl-certfile": certificate,
            "--ssl-keyfile": key,
            "--ssl-ca-certfile": certificate,
            "--database": self.folder / "superlink.sqlite" if self._on_disk else _IN_MEMORY,
        }
        return [
            str(program),
            *("--host", HOST, "--port", str(self.port)),
            *(str(word) for pair in paths.items() for word in pair),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]

    def _wait_until_ready(self) -> None:
        last = time.monotonic() + _READY_SECONDS
        with httpx.Client(verify=self.trust(), trust_env=False, timeout=5) as client:
            while time.monotonic() < last:
                if not self.alive:
                    code = self._process.returncode if self._process else None
                    raise ServiceError(
                        f"the SuperLink ended at its start (exit code {code})",
                        todo="look into its log",
                        where=str(self.folder),
                    )
                with contextlib.suppress(httpx.HTTPError):
                    if client.get(f"https://{HOST}:{self.port}/health").is_success:
                        return
                time.sleep(0.1)
        raise ServiceError(
            f"the SuperLink did not answer within {_READY_SECONDS:.0f} s",
            todo="look into its log",
            where=str(self.folder),
        )

    def _find_executor(self) -> psutil.Process:
        """Flower's SuperExec, which the SuperLink starts before it answers.

        Raises:
            ServiceError: There is none.
        """
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.pid).children():
                if _is_program(child, _EXECUTOR):
                    return child
        raise ServiceError(
            "the SuperLink started no process that starts runs",
            todo="look into its log",
            where=str(self.folder),
        )

    def _end_leftovers(self) -> None:
        """Kill what a SuperLink of this folder started, and itself if its parent was killed.

        Two of them would write to one state, and an old ServerApp to the folder of a new one.
        """
        try:
            port = int(json.loads((self.folder / "port.json").read_bytes())["port"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        marks = {str(self.folder / "loopback.pem"), f"{HOST}:{port}"}
        found = [p for p in psutil.process_iter() if _is_ours(p, marks)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_STOP_SECONDS)


class _LoopbackControl(ControlHttpClient):
    """Flower's client, which would send loopback requests through a proxy of the environment."""

    def __init__(
        self,
        base_url: str,
        *,
        verify: ssl.SSLContext | bool | str = True,
        timeout: float = 30.0,
        **others: Any,  # noqa: ANN401
    ) -> None:
        super().__init__(base_url, verify=verify, timeout=timeout, **others)
        self._client.close()
        self._client = httpx.Client(verify=verify, timeout=timeout, trust_env=False)


def _state(status: Any) -> tuple[RunState, str]:  # noqa: ANN401 - protobuf's own class
    states: dict[str, RunState] = {
        "pending": "waiting",
        "starting": "waiting",
        "running": "running",
        "completed": "completed",
        "stopped": "stopped",
        "failed": "failed",
    }
    found = status.sub_status if status.status == "finished" else status.status
    return states.get(found, "failed"), str(status.details)


def _pem(key: bytes) -> bytes:
    """A public transport key in the one form that Flower knows it by.

    Raises:
        ServiceError: It is no EC P-384 key in DER.
    """
    try:
        return transport_pem(key)
    except ValueError:
        raise ServiceError(
            "a hospital's transport key is no EC P-384 key", todo="ask for its enrolment again"
        ) from None


def _der(key: bytes) -> bytes:
    return load_pem_public_key(key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_ours(process: psutil.Process, marks: set[str]) -> bool:
    if not _is_program(process, *_OUR_PROGRAMS):
        return False
    try:
        return bool(marks & set(process.cmdline()))
    except psutil.Error:
        return False


def _is_program(process: psutil.Process, *names: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:  # it ended, or is somebody else's
        return False
    return any(Path(word).name in names for word in words[:3])


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _free_port() -> int:
    with socket.socket() as door:
        door.bind((HOST, 0))
        return int(door.getsockname()[1])
