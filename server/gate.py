"""The one public port: TLS, and nothing behind it but the hospitals' API.

A request passes only if its target is, byte for byte, one plain path below the prefix: nothing is
decoded or normalised, so there is nothing to disagree about with the server behind. What goes on is
built anew from the parts that are known, never copied. Everything else is answered 404 with an
empty body, and the connection is closed.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import h11

from fedward.server.allowance import Allowance, NoRoom
from fedward.server.http_sides import CHUNK, Behind, Caller, Limits
from fedward.server.lobby import Lobby, Visit, network_of
from fedward.study.errors import ServiceError

Headers = Mapping[bytes, bytes]
Who = bytes | bool | None

_FRESH_SECONDS = 2.0  # the server behind closes an idle connection after 5 s
_SHUT_SECONDS = 2.0  # for the end of TLS
_ONE_PLAIN_STEP = rb"[a-z]+(?:-[a-z]+)*"
_AT_MOST_ONCE = (b"content-length", b"content-type", b"host")
_NEVER = {b"expect", b"transfer-encoding", b"upgrade"}


@dataclass(frozen=True)
class Route:
    """What is behind the gate.

    Attributes:
        address: Host and port.
        tls: How to know that server.
        prefix: Where the paths begin that may pass; ends in `/`.
        forwarded: Beginnings of the names, in small letters, of the headers that are passed on.
        admits: Asked with a request's headers who sends it; 401 if that is nobody.
    """

    address: tuple[str, int]
    tls: ssl.SSLContext
    prefix: bytes
    forwarded: tuple[bytes, ...]
    admits: Callable[[Headers], Who]


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
    status, headers = _form(request, route), dict(request.headers)
    if status is not None:
        return status, None
    who = route.admits(headers)
    if not who:
        return 401, None
    return (413 if int(headers[b"content-length"]) > limits.body else None), who


def _form(request: h11.Request, route: Route) -> int | None:
    headers = dict(request.headers)
    names = [name for name, _ in request.headers]
    path = re.escape(route.prefix) + _ONE_PLAIN_STEP
    if request.method != b"POST" or not re.fullmatch(path, request.target):
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
        self._idle: deque[tuple[Behind, Route, float]] = deque()
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
        while self._idle:
            self._idle.pop()[0].close()

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
        return await self._pass_on(caller, request, route, who)

    async def _pass_on(self, caller: Caller, request: h11.Request, route: Route, who: Who) -> bool:
        began = time.monotonic()
        headers = dict(request.headers)
        size, sent = int(headers[b"content-length"]), 0
        kept = [
            (name, value) for name, value in headers.items() if name.startswith(route.forwarded)
        ]
        try:
            async with self._room(who, size), self._borrowed(route) as behind:
                try:
                    await behind.ask(request.target, kept, size, caller.body())
                    answer = await behind.answer()
                except (OSError, h11.RemoteProtocolError):
                    return await self._refuse(caller, 503)
                await caller.answer(answer)
                async for data in behind.body():
                    sent += len(data)
                    await caller.send(data)
        except (ConnectionRefusedError, NoRoom):
            return await self._refuse(caller, 503)
        self._listener(Passage(answer.status_code, size, sent, time.monotonic() - began))
        return await caller.end()

    async def _refuse(self, caller: Caller, status: int) -> bool:
        self._listener(Passage(status))
        await caller.refuse(status)
        return False

    def _room(self, who: Who, size: int) -> AbstractAsyncContextManager[None]:
        """A place for a body, which the server behind holds whole; a sign of life never waits."""
        if size <= CHUNK:
            return nullcontext()
        return self._bodies.taken(who, size, seconds=self._limits.idle_seconds)

    @asynccontextmanager
    async def _borrowed(self, route: Route) -> AsyncIterator[Behind]:
        """A connection to the server behind; kept for the next request if this one went well."""
        behind = await self._connected(route)
        try:
            yield behind
        finally:
            if behind.again():
                self._idle.append((behind, route, time.monotonic()))
            else:
                behind.close()

    async def _connected(self, route: Route) -> Behind:
        while self._idle:
            behind, its_route, since = self._idle.pop()
            fresh = time.monotonic() - since < _FRESH_SECONDS
            same = its_route.address == route.address and its_route.tls is route.tls
            if fresh and same and behind.usable:
                return behind
            behind.close()
        try:
            reader, writer = await asyncio.open_connection(
                *route.address,
                ssl=route.tls,
                limit=CHUNK,
                ssl_handshake_timeout=self._limits.head_seconds,
            )
        except (OSError, TimeoutError) as error:
            raise ConnectionRefusedError(str(error)) from None
        return Behind(reader, writer, self._limits)
