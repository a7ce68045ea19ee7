"""A stock Flower SuperLink on loopback: its process.

On the aggregator's side Flower's private names stand here, in `superlink_control.py`,
`doorkeeper.py`, `fleet_methods.py`, `pulling.py`, `exchange.py` and `optimizer.py`, and nowhere
else (`tests/test_architecture.py`). They were read in Flower 1.41 and are tested against that
version; another one is refused with one line.

The SuperLink listens on 127.0.0.1 alone, with TLS, on two ports: HTTP for everything, and gRPC for
the hospitals' API, which the gate leads to. Whoever reaches the first can start programs as this
user, so only the gate stands between it and the world, and no other person belongs on the machine.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import flwr
import httpx
import psutil
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME

from fedward.server.loopback import write_loopback_certificate
from fedward.server.superlink_control import SuperLinkControl
from fedward.study.errors import ServiceError
from fedward.study.freed_memory import FREED_STAYS

TESTED = "1.41."
HOST = "127.0.0.1"
_CHUNK = 8 << 20  # bytes of an array in one object, and so in one request; hospitals do the same
_READY_SECONDS = 90.0
_STOP_SECONDS = 10.0
_EXECUTOR = "flower-superexec"
_OUR_PROGRAMS = ("flower-superlink", _EXECUTOR, "flwr-serverapp")
_IN_MEMORY = Path(FLWR_IN_MEMORY_DB_NAME)


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


def child_environment(home: Path) -> dict[str, str]:
    """This process's environment for Flower's: without its settings, proxies and chatter.

    A setting such as FLWR_INTERNAL_GRPC_CONTROL_API, inherited, would open another port. The one of
    that kind that is set here opens the fleet API's.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("FLWR_") and not name.lower().endswith("_proxy")
    }
    bin_folder = str(Path(sys.executable).parent)
    return {
        **FREED_STAYS,
        **kept,
        "PATH": os.pathsep.join(filter(None, [bin_folder, os.environ.get("PATH", "")])),
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_INTERNAL_GRPC_FLEET_API": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": str(_CHUNK),
        "PYTHONUNBUFFERED": "1",
    }


class SuperLink:
    """One SuperLink process, and what can be asked of it (`control`).

    Args:
        folder: For its state, its certificate and Flower's own files; kept between starts.
        output: Where the process writes what it has to say.
        port: Of its HTTP API, on loopback; a free one if None. That of its gRPC API always is one.
        on_disk: Whether messages under way, nodes and runs are in SQLite, or else in memory, which
            is about twice as fast and loses nothing that whoever starts it does not know.
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
        self.folder = folder.resolve()  # one spelling, which its processes are known by
        self.port = 0
        self.fleet_port = 0
        self._wanted_port = port
        self._on_disk = on_disk
        self._output = subprocess.DEVNULL if output is None else output
        self._process: subprocess.Popen[bytes] | None = None
        self._executor: psutil.Process | None = None
        self.control = SuperLinkControl()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the running process, for HTTP."""
        return HOST, self.port

    @property
    def fleet_address(self) -> tuple[str, int]:
        """Host and port of its fleet API in gRPC."""
        return HOST, self.fleet_port

    @property
    def certificate(self) -> bytes:
        """What both ports are known by, PEM.

        Raises:
            OSError: The process was never started here.
        """
        return (self.folder / "loopback.pem").read_bytes()

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

    def answers(self, seconds: float) -> bool:
        """Whether the process answers a question for its health within so many seconds.

        It must take a connection on the port of the fleet API too, which has no such question.
        """
        try:
            with httpx.Client(verify=self.trust(), trust_env=False, timeout=seconds) as client:
                healthy = client.get(f"https://{HOST}:{self.port}/health").is_success
            return healthy and self._speaks_grpc(seconds)
        except (httpx.HTTPError, OSError):  # OSError: its certificate is gone
            return False

    def _speaks_grpc(self, seconds: float) -> bool:
        trust = self.trust()
        trust.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(self.fleet_address, timeout=seconds) as plain,
            trust.wrap_socket(plain, server_hostname=HOST) as tls,
        ):
            return tls.selected_alpn_protocol() == "h2"

    def kill(self) -> None:
        """End the process at once, as one that does not hear anything any more needs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

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
        self.port, self.fleet_port = _free_ports(self._wanted_port)
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
        self.control.open(f"{HOST}:{self.port}", certificate.read_bytes())

    def stop(self) -> None:
        """End the process and all that it started; nothing happens if there is none."""
        self.control.close()
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
            *("--fleet-api-address", f"{HOST}:{self.fleet_port}"),
            *(str(word) for pair in paths.items() for word in pair),
            "--enable-supernode-auth",
            "--disable-runtime-dependency-installation",
        ]

    def _wait_until_ready(self) -> None:
        last = time.monotonic() + _READY_SECONDS
        while time.monotonic() < last:
            if not self.alive:
                code = self._process.returncode if self._process else None
                raise ServiceError(
                    f"the SuperLink ended at its start (exit code {code})",
                    todo="look into its log",
                    where=str(self.folder),
                )
            if self.answers(5.0):
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

        Two of them would write to one state, and an old ServerApp to the folder of a new one. They
        all name the folder's certificate, also when the folder itself is gone.
        """
        found = [p for p in psutil.process_iter() if _is_ours(p, str(self.folder / "loopback.pem"))]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=_STOP_SECONDS)


def _is_ours(process: psutil.Process, certificate: str) -> bool:
    if not _is_program(process, *_OUR_PROGRAMS):
        return False
    try:
        return certificate in process.cmdline()
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


def _free_ports(wanted: int | None) -> tuple[int, int]:
    """The port that is wanted, or a free one; and another free one."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((HOST, 0))  # also if it is not needed: both are held until they are known
        second.bind((HOST, 0))
        free = [int(door.getsockname()[1]) for door in (first, second)]
    if wanted is None:
        return free[0], free[1]
    return wanted, next(port for port in free if port != wanted)
