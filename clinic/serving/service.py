"""The service, from its first listening port to the last answer in flight."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import grpc
import uvicorn
from prometheus_client.registry import Collector
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedward.clinic.serving.answering import Answering, Pace, Watching
from fedward.clinic.serving.door import Door, Flying, Limits, Pass, check_owner_only, read_token
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.grpc_side import server as grpc_server
from fedward.clinic.serving.people import Explain, covered, for_people
from fedward.clinic.serving.reading import Reading
from fedward.clinic.serving.rest import application
from fedward.clinic.serving.served_model import ServedModel
from fedward.study.errors import OptionError, ServiceError
from fedward.web.same_site import LOOPBACK
from fedward.web.uvicorn_server import QuietServer

_CONNECTIONS = 1024
_OF_ONE_ADDRESS = 256  # connections
_HEAD = 10.0  # seconds for a request's head
_KEEP_ALIVE = 75  # seconds
_BEHIND = 512  # connections that may wait to be accepted


class Certificates(NamedTuple):
    """Files in PEM for TLS.

    Attributes:
        certificate: The service's chain.
        key: Its private key.
        client_ca: Who signs clients' certificates, which then are demanded; None if nobody's is.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Listening(NamedTuple):
    """Where the service listens, and to whom.

    Attributes:
        host: Address or name.
        port: For HTTP; 0 for any that is free.
        grpc_port: For gRPC; None for no gRPC.
        certificates: For TLS; None for none.
        token_file: Holds the token that requests must have; None if they need none.
        limits: Of each request.
        grace: Seconds for answers in flight when the service stops.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = 8001
    certificates: Certificates | None = None
    token_file: Path | None = None
    limits: Limits = Limits()
    grace: float = 20.0

    @property
    def loopback(self) -> bool:
        """Whether only this machine can ask."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def token(self) -> str | None:
        """The token that requests must have.

        Raises:
            OptionError: Other machines could ask and nobody would know who, or the file is no
                token's.
        """
        known = self.certificates is not None and self.certificates.client_ca is not None
        if not self.loopback and not known and self.token_file is None:
            raise OptionError(
                "other machines could ask without a token or a certificate",
                todo="give --token-file, or --client-ca with --certificate and --key",
                where=f"--host {self.host}",
            )
        return None if self.token_file is None else read_token(self.token_file)


class Ports(NamedTuple):
    """What the service listens on."""

    http: int
    grpc: int | None


def serve(
    models: Mapping[str, ServedModel],
    listening: Listening,
    pace: Pace,
    *,
    ready: Callable[[Ports], None],
    watches: Mapping[str, Watching] | None = None,
    collectors: tuple[Collector, ...] = (),
    explain: Explain = covered,
) -> float:
    """Answer until SIGTERM or SIGINT; answers in flight are finished.

    Returns:
        Seconds of the grace that are left, below 0 if none are.

    Args:
        models: By the names that requests have for them.
        listening: Where, and to whom.
        pace: How requests are put together.
        ready: Is told the ports once the service answers.
        watches: By a model's name, who counts what it sees.
        collectors: Further figures to show at /metrics.
        explain: Makes the pictures.

    Raises:
        OptionError: The service would be open to other machines, the token cannot be used, or
            others can read it or the certificate's key.
        ServiceError: A port or a certificate cannot be used.
    """
    known = Pass(listening.token(), listening.limits.rate)
    gauges = Gauges(*collectors)

    async def run() -> float:
        answering = Answering(models, gauges, pace, watches)
        reading = Reading(list(models.values()))

        def is_ready() -> bool:
            return not answering.stopping and not reading.broken

        app = application(answering, is_ready)
        app.include_router(for_people(answering, reading, explain))
        flying = Flying(listening.limits.flying)
        door = Door(app, known, listening.limits, gauges, flying, _hosts(listening))
        other = None
        if listening.grpc_port is not None:
            other = grpc_server(answering, known, listening.limits, flying, is_ready)
        standing = asyncio.create_task(reading.stand_ready())
        try:
            return await _until_stopped(door, other, answering, listening, ready)
        finally:
            standing.cancel()
            await asyncio.wait({standing})
            await answering.close()
            await reading.close()

    return asyncio.run(run()) - time.monotonic()


async def _until_stopped(
    door: Door,
    other: grpc.aio.Server | None,
    answering: Answering,
    listening: Listening,
    ready: Callable[[Ports], None],
) -> float:
    """Answer until a signal; the time on the monotonic clock at which the grace ends."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    bound = _bound(listening)
    http = QuietServer(_http_config(door, listening))
    grpc_port = None
    if other is not None:
        grpc_port = _grpc_port(other, listening)
        await other.start()
    serving = asyncio.create_task(http.serve(sockets=[bound]))
    stopped = asyncio.create_task(stop.wait())
    while not http.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        ready(Ports(bound.getsockname()[1], grpc_port))
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    until = time.monotonic() + listening.grace
    answering.stopping = True
    http.should_exit = True
    if other is not None:
        await other.stop(listening.grace)
    await serving
    return until


class _Prompt(HttpToolsProtocol):
    """Waits for no head for long, has not too many connections of one address, and is prompt.

    It sends a reply's head and body at once, and acknowledges each piece of a request at once.

    Nagle's algorithm else holds a second piece back until the first is acknowledged, which Linux
    does 40 ms later: ours, for asyncio only sees to sockets that were made with TCP's number; and
    that of Triton's client, which sends a head and then a body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection = transport.get_extra_info("socket")
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        self._head_timer: asyncio.TimerHandle | None = None
        self._await_head()
        hosts = [other.client[0] for other in self.connections if other.client is not None]
        if self.client is not None and hosts.count(self.client[0]) > _OF_ONE_ADDRESS:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_here()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._await_head()  # the second of a connection, for the first has its timer already

    def on_headers_complete(self) -> None:
        self._head_is_here()
        super().on_headers_complete()

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD, self.transport.abort)

    def _head_is_here(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if hasattr(socket, "TCP_QUICKACK"):
            with contextlib.suppress(OSError):  # already closed
                self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _hosts(listening: Listening) -> tuple[str, ...]:
    """Names that a browser on this machine may have for the service, where no token is asked."""
    if listening.token_file is not None or not listening.loopback:
        return ()
    return (listening.host, *LOOPBACK)


def _http_config(door: Door, listening: Listening) -> uvicorn.Config:
    files = listening.certificates
    asked = files is not None and files.client_ca is not None
    config = uvicorn.Config(
        door,
        http=_Prompt,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(listening.grace)),
        ssl_certfile=None if files is None else files.certificate,
        ssl_keyfile=None if files is None else files.key,
        ssl_ca_certs=str(files.client_ca) if files is not None and files.client_ca else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if asked else ssl.CERT_NONE,
    )
    try:
        if files is not None:
            check_owner_only(files.key)
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(
            f"no certificate that can be used ({type(error).__name__})",
            todo="give --certificate, --key and --client-ca as PEM files that belong together",
        ) from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return config


def _bound(listening: Listening) -> socket.socket:
    try:
        (family, *_), *_ = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM
        )
        return socket.create_server(
            (listening.host, listening.port), family=family, backlog=_BEHIND
        )
    except OSError as error:
        raise _cannot_listen(listening.host, listening.port, error) from None


def _grpc_port(other: grpc.aio.Server, listening: Listening) -> int:
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    address = f"{host}:{listening.grpc_port}"
    files = listening.certificates
    try:
        if files is None:
            return int(other.add_insecure_port(address))
        authority = None if files.client_ca is None else files.client_ca.read_bytes()
        pair = (files.key.read_bytes(), files.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials(
            [pair], root_certificates=authority, require_client_auth=authority is not None
        )
        return int(other.add_secure_port(address, credentials))
    except (OSError, RuntimeError) as error:
        raise _cannot_listen(listening.host, listening.grpc_port or 0, error) from None


def _cannot_listen(host: str, port: int, error: Exception) -> ServiceError:
    return ServiceError(
        f"cannot listen on port {port} ({type(error).__name__})",
        todo="choose a free port and an address of this machine",
        where=host,
    )
