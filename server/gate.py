"""The one public port: TLS, and nothing behind it but the hospitals' API.

A request passes only if its target is, byte for byte, one path of a fixed table: nothing is decoded
or normalised, so there is nothing to disagree about with the server behind. What goes on is a call
over gRPC, built anew from the parts that are known, never copied. Everything else is answered 404
with an empty body, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import h11

from fedward.server.allowance import Allowance, NoRoom
from fedward.server.fleet_methods import CARRIES_OBJECTS, METHODS
from fedward.server.grpc_side import Behind, NobodyThere
from fedward.server.http_sides import CHUNK, Caller, Limits
from fedward.server.lobby import Lobby, Visit, network_of
from fedward.study.errors import ServiceError

Headers = Mapping[bytes, bytes]
Who = bytes | bool | None

_SHUT_SECONDS = 2.0  # for the end of TLS
_AT_MOST_ONCE = (b"content-length", b"content-type", b"host")
_NEVER = {b"expect", b"transfer-encoding", b"upgrade"}


@dataclass(frozen=True)
class Route:
    """What is behind the gate.

    Attributes:
        address: Host and port of its fleet API, in gRPC.
        certificate: What that server is known by, PEM.
        admits: Asked with a request's headers who sends it; 401 if that is nobody.
        not_yet: Who is not known behind the gate yet: 503, after which callers try again.
    """

    address: tuple[str, int]
    certificate: bytes
    admits: Callable[[Headers], Who]
    not_yet: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Passage:
    """One answered request, for counters: nothing in it tells what was said.

    Attributes:
        status: HTTP status.
        received: Bytes of the request's body that were passed on.
        sent: Bytes of the answer's body.
        seconds: From the request's head to the end of the answer.
    """

    status: int
    received: int = 0
    sent: int = 0
    seconds: float = 0.0


def public_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.3 with the aggregator's own certificate.

    Args:
        certificate: The chain, PEM.
        key: Its private key, PEM.

    Raises:
        ServiceError: They cannot be read, or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, certificate, key)
    return context


def load_certificate(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Use a renewed certificate for the connections to come.

    Raises:
        ServiceError: As for `public_tls`.
    """
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ServiceError(
            f"no certificate for the public port ({error})",
            todo="install the coordinator's answer: fedward aggregator enroll --answer FILE",
            where=str(certificate),
        ) from None


def verdict(request: h11.Request, route: Route, limits: Limits) -> tuple[int | None, Who]:
    """The status of a refusal, or None if the request may pass; and who sends it."""
    status, headers = _form(request), dict(request.headers)
    if status is not None:
        return status, None
    who = route.admits(headers)
    if not who:
        return 401, None
    if who in route.not_yet:
        return 503, who
    most = limits.body if request.target == CARRIES_OBJECTS else limits.words
    return (413 if int(headers[b"content-length"]) > most else None), who


def _form(request: h11.Request) -> int | None:
    headers = dict(request.headers)
    names = [name for name, _ in request.headers]
    if request.method != b"POST" or request.target not in METHODS:
        return 404
    if request.http_version != b"1.1" or _NEVER & headers.keys():
        return 404
    if any(names.count(name) > 1 for name in _AT_MOST_ONCE) or b"content-length" not in headers:
        return 404
    return None


class Gate:
    """A TLS server that passes one API on. Its methods belong to one event loop.

    Args:
        tls: From `public_tls`.
        limits: What connections may use.
        listener: Told of every answer.

    Attributes:
        route: What is behind; while it is None, everything is answered 503.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        *,
        limits: Limits | None = None,
        listener: Callable[[Passage], None] = lambda passage: None,
    ) -> None:
        self.route: Route | None = None
        self._tls = tls
        self._limits = limits or Limits()
        self._listener = listener
        self._bodies = Allowance(self._limits.bodies, self._limits.bodies_each)
        self._behind: Behind | None = None
        self._leads_to: object = None
        self._ending: set[asyncio.Task[None]] = set()
        self._lobby = Lobby(self._limits)
        self._callers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """Callers that are connected now."""
        return len(self._callers)

    async def open(self, host: str, port: int) -> int:
        """Listen.

        Args:
            host: Address to listen on; empty for all.
            port: 0 for a free one.

        Returns:
            The port.

        Raises:
            ServiceError: It cannot be listened on.
        """
        try:
            self._server = await asyncio.start_server(
                self._meet, host or None, port, limit=CHUNK, backlog=256
            )
        except (OSError, OverflowError) as error:
            raise ServiceError(
                f"cannot listen on {host or 'any address'} port {port} ({error})",
                todo="is another aggregator running? choose another port in aggregator.toml",
            ) from None
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no longer, and cut every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._callers:
            task.cancel()
        await asyncio.gather(*self._callers, return_exceptions=True)
        if self._behind is not None:
            self._leave(self._behind, grace=None)
            self._behind = self._leads_to = None
        await asyncio.gather(*self._ending)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a connection from before its handshake until it is closed.

        Nothing may be awaited before TLS begins: the first bytes would go to the reader.
        """
        task, visit = asyncio.current_task(), self._lobby.enter(network_of(writer))
        if task is None or visit is None:
            writer.transport.abort()
            return
        self._callers.add(task)
        try:
            async with asyncio.timeout(self._limits.head_seconds) as patience:
                await writer.start_tls(self._tls)
                caller = Caller(reader, writer, self._limits)
                while await self._serve_one(caller, visit, patience):
                    pass
            writer.close()
            async with asyncio.timeout(_SHUT_SECONDS):
                await writer.wait_closed()
        except (OSError, EOFError, h11.ProtocolError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            visit.leave()
            self._callers.discard(task)

    async def _serve_one(self, caller: Caller, visit: Visit, patience: asyncio.Timeout) -> bool:
        """Answer one request; returns whether the connection can carry another."""
        try:
            request = await caller.request()
        except h11.RemoteProtocolError as error:
            return await self._refuse(caller, error.error_status_hint)
        if request is None:
            return False
        route = self.route
        if route is None:
            return await self._refuse(caller, 503)
        status, who = verdict(request, route, self._limits)
        if status is not None:
            return await self._refuse(caller, status)
        if not visit.admit():
            return await self._refuse(caller, 503)
        patience.reschedule(None)
        return await self._pass_on(caller, request, who)

    async def _pass_on(self, caller: Caller, request: h11.Request, who: Who) -> bool:
        began, headers = time.monotonic(), dict(request.headers)
        size = int(headers[b"content-length"])
        try:
            async with self._room(who, size):
                try:
                    body = await caller.body()
                except (OSError, h11.RemoteProtocolError):
                    return await self._refuse(caller, 503)
                route = self.route  # a body takes its time: the server behind may be another one
                if route is None:
                    return await self._refuse(caller, 503)
                answer = await self._reached(route).answer(request.target, headers, body)
                del body
                again = await caller.answer(answer.status, answer.kind, answer.body)
        except (NoRoom, NobodyThere):
            return await self._refuse(caller, 503)
        passed = time.monotonic() - began
        self._listener(Passage(answer.status, size, len(answer.body), passed))
        return again

    async def _refuse(self, caller: Caller, status: int) -> bool:
        self._listener(Passage(status))
        await caller.refuse(status)
        return False

    def _room(self, who: Who, size: int) -> AbstractAsyncContextManager[None]:
        """A place for a body, which is held whole; a sign of life never waits."""
        if size <= CHUNK:
            return nullcontext()
        return self._bodies.taken(who, size, seconds=self._limits.idle_seconds)

    def _reached(self, route: Route) -> Behind:
        """The line to the server behind; one for all requests, as long as it is the same server."""
        server = route.address, route.certificate
        if self._behind is None or self._leads_to != server:
            if self._behind is not None:
                self._leave(self._behind, grace=self._limits.answer_seconds)
            seconds = self._limits.answer_seconds
            self._behind = Behind(*server, answer_seconds=seconds)
            self._leads_to = server
        return self._behind

    def _leave(self, behind: Behind, *, grace: float | None) -> None:
        """End a line; what is under way on it has its time."""
        ending = asyncio.create_task(behind.close(grace))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
