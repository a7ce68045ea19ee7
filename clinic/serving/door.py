"""What every request over HTTP passes first: who, how often, how large; and what is written of it.

A line of the log has the endpoint's pattern, the status, sizes and times. It never has a path as
it was sent, a file's name, a header, a value, or the words of an unexpected error, which may quote
one.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.refusal import Refusal
from fedward.study.errors import OptionError
from fedward.web.same_site import is_other_name, is_other_site

LOG = logging.getLogger("fedward.serving")
OPEN = frozenset({"/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no token: the page without a patient, and what an orchestrator probes."""

_SHORTEST_TOKEN = 32
_PEERS = 10_000


class Limits(NamedTuple):
    """How much one may ask.

    Attributes:
        size: Most bytes of a request.
        rate: Most requests a second from one address, over some seconds; a burst may be as many.
        seconds: For a request to come in whole.
        flying: Most bytes of all requests that are being answered.
    """

    size: int = 64 << 20
    rate: float = 1000.0
    seconds: float = 60.0
    flying: int = 1 << 30


def read_token(path: Path) -> str:
    """The token that a file holds.

    Raises:
        OptionError: It cannot be read, others can read it too, or it is too short.
    """
    try:
        check_owner_only(path)
        token = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot be read as a token ({type(error).__name__})",
            todo="give a file of one line",
            where=str(path),
        ) from None
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise OptionError(
            f"is no token of at least {_SHORTEST_TOKEN} characters",
            todo="make one: (umask 077; openssl rand -hex 32 > FILE)",
            where=str(path),
        )
    return token


def check_owner_only(path: Path) -> None:
    """Whether a secret's file is its owner's alone.

    Raises:
        OptionError: Others can read it.
        OSError: There is none.
    """
    if path.stat().st_mode & 0o077:
        raise OptionError("others can read it", todo=f"chmod 600 {path}", where=str(path))


class Pass:
    """Whether a sender is known, and has not asked too often.

    Args:
        token: Which it must give; None if nobody needs one.
        rate: Requests a second, and the largest burst.
    """

    def __init__(self, token: str | None, rate: float) -> None:
        self._token = None if token is None else f"Bearer {token}".encode()
        self._rate = rate
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def check_token(self, authorization: bytes) -> None:
        """Whether this is what the header `Authorization` must be, in constant time.

        Raises:
            Refusal: It is not.
        """
        if self._token is not None and not hmac.compare_digest(self._token, authorization):
            raise Refusal(401, "a token is needed", todo="send Authorization: Bearer TOKEN")

    def check_rate(self, peer: str) -> None:
        """Count a request of an address.

        Raises:
            Refusal: It has asked too often.
        """
        now = time.monotonic()
        burst = max(self._rate, 1.0)
        left, since = self._left.pop(peer, (burst, now))
        left = min(burst, left + (now - since) * self._rate)
        self._left[peer] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _PEERS:
            self._left.popitem(last=False)
        if left < 1:
            raise Refusal(429, "too many requests", todo="ask again in a second")


class Flying:
    """The bytes of all requests that are being answered, over HTTP and gRPC.

    Args:
        most: That may be.
    """

    def __init__(self, most: int) -> None:
        self._most, self._now = most, 0

    def add(self, size: int) -> None:
        """Count bytes that came; who adds takes away as many in the end.

        Raises:
            Refusal: They are too many; then they are not counted.
        """
        if self._now + size > self._most:
            raise Refusal(429, "too much is being answered", todo="ask again in a moment")
        self._now += size

    def take_away(self, size: int) -> None:
        """The bytes of a request that has been answered."""
        self._now -= size


class Door:
    """The outermost part of the application.

    Args:
        app: What is behind it.
        known: Who may pass.
        limits: Of each request.
        gauges: Where requests are counted.
        flying: Counts the bytes in flight.
        hosts: Names that the header `Host` may have, else any: a page of somebody else's that a
            browser took to this machine (DNS rebinding) names another.
    """

    def __init__(
        self,
        app: ASGIApp,
        known: Pass,
        limits: Limits,
        gauges: Gauges,
        flying: Flying,
        hosts: Sequence[str] = (),
    ) -> None:
        self._app, self._known, self._limits, self._gauges = app, known, limits, gauges
        self._flying = flying
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).setdefault("Cache-Control", "no-store")
            await send(message)

        body = _Body(receive, self._limits, self._flying)
        with self._gauges.in_flight.track_inprogress():
            try:
                self._check(scope)
                await self._app(scope, body, noting)
            except Refusal as refusal:
                if not status:
                    await refused(refusal)(scope, receive, noting)
            except Exception as error:  # its words may quote a record
                LOG.error("unexpected %s at %s", type(error).__name__, place_of(error))
                if not status:
                    await refused(Refusal(500, "the service failed"))(scope, receive, noting)
            finally:
                self._flying.take_away(body.size)
        seconds = time.perf_counter() - started
        endpoint = getattr(scope.get("route"), "path", "-")
        self._gauges.requests.labels(endpoint, str(status)).inc()
        self._gauges.seconds.labels(endpoint).observe(seconds)
        LOG.info("%s %d %d bytes %.1f ms", endpoint, status, body.size, 1000 * seconds)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._hosts and is_other_name(headers, self._hosts):
            raise Refusal(421, "this service has another name")
        if is_other_site(headers):
            raise Refusal(403, "a page of another site asks")
        self._known.check_rate(scope["client"][0] if scope["client"] else "")
        if scope["path"] not in OPEN:
            self._known.check_token(headers.get(b"authorization", b""))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Refusal(415, "compressed requests are not taken", todo="send it as it is")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > self._limits.size:
            raise Refusal(413, f"a request may have at most {self._limits.size} bytes")


class _Body:
    """A request's body as it comes, which may be neither too large nor too slow."""

    def __init__(self, receive: Receive, limits: Limits, flying: Flying) -> None:
        self._receive, self._limits, self._flying = receive, limits, flying
        self._until = math.inf
        self._whole = False
        self.size = 0

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        self._until = min(self._until, loop.time() + self._limits.seconds)
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise Refusal(408, "the request came too slowly") from None
        size = len(message.get("body", b""))
        self._flying.add(size)
        self.size += size
        self._whole = not message.get("more_body", False)
        if self.size > self._limits.size:
            raise Refusal(413, f"a request may have at most {self._limits.size} bytes")
        return message


def refused(refusal: Refusal) -> JSONResponse:
    """A refusal as HTTP has it."""
    headers = {429: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse(
        {"error": refusal.sentence()}, refusal.status, headers=headers.get(refusal.status)
    )


def place_of(error: BaseException) -> str:
    """Where in the code an error arose: a file's name and a line."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
