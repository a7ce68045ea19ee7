"""The two connections of a request that passes the gate: the caller's, and the one behind.

h11 parses both and is strict about framing; nothing here looks at bytes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

import h11

CHUNK = 1 << 18
"""Bytes that are read at once; what a connection holds is a small multiple of it."""

_DRAINED = 8 << 20
_DRAIN_SECONDS = 2.0
_ANSWERED = (b"content-type", b"content-length")

Pairs = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Limits:
    """What one connection, and all of them together, may use.

    Attributes:
        connections: At the same time, of hospitals that were admitted.
        strangers: Connections besides, from the first byte of TLS to the first admitted request.
        strangers_each: The same from one address, or one /64 of IPv6; further ones are closed.
        head: Bytes of a request's line and headers.
        body: Bytes of a request's body; the server behind holds it in memory.
        bodies: Bytes of all bodies that are passed on at the same time, but for small ones.
        bodies_each: The same of one hospital; who wants more waits.
        head_seconds: For a stranger until it is admitted, TLS included; later for a request's head
            once its first byte is there.
        idle_seconds: Without a byte, between requests or inside one.
        answer_seconds: Until the server behind begins to answer.
    """

    connections: int = 1024
    strangers: int = 256
    strangers_each: int = 32
    head: int = 16 << 10
    body: int = 256 << 20
    bodies: int = 1 << 30
    bodies_each: int = 256 << 20
    head_seconds: float = 10.0
    idle_seconds: float = 60.0
    answer_seconds: float = 120.0


class _Side:
    """One connection and its parser."""

    def __init__(
        self,
        role: type[h11.CLIENT | h11.SERVER],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
    ) -> None:
        self._http = h11.Connection(role, max_incomplete_event_size=limits.head)
        self._reader = reader
        self._writer = writer
        self._limits = limits

    async def body(self) -> AsyncIterator[bytes]:
        """The message's body as it arrives.

        Raises:
            TimeoutError: Nothing came for too long.
            h11.RemoteProtocolError: The other side broke the framing, or closed too early.
        """
        while True:
            async with asyncio.timeout(self._limits.idle_seconds):
                event = await self._event()
            if isinstance(event, h11.Data):
                yield event.data
            else:
                return

    def again(self) -> bool:
        """Whether both messages are whole and the connection can carry another pair."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return not self._writer.is_closing()
        return False

    def close(self) -> None:
        """Cut the connection."""
        self._writer.transport.abort()

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    async def _send(self, *events: h11.Event) -> None:
        for event in events:
            for piece in self._http.send_with_data_passthrough(event) or ():
                self._writer.write(piece)
        async with asyncio.timeout(self._limits.idle_seconds):
            await self._writer.drain()


class Caller(_Side):
    """Whoever reached the public port."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        super().__init__(h11.SERVER, reader, writer, limits)

    async def request(self) -> h11.Request | None:
        """The next request's head; None if the caller has gone.

        Raises:
            TimeoutError: None came, or not all of it in time.
            h11.RemoteProtocolError: It is no proper HTTP request.
        """
        if not self._http.trailing_data[0]:
            async with asyncio.timeout(self._limits.idle_seconds):
                self._http.receive_data(await self._reader.read(CHUNK))
        async with asyncio.timeout(self._limits.head_seconds):
            event = await self._event()
        return event if isinstance(event, h11.Request) else None

    async def refuse(self, status: int) -> None:
        """Answer with a status and an empty body; the connection is to be closed then.

        What the caller still sends is read for a moment: a connection that is closed with unread
        bytes in it would take the answer away again.
        """
        if self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        # Whose key is refused because its clock is wrong learns here how wrong it is.
        date = email.utils.formatdate(usegmt=True).encode()
        headers = [(b"content-length", b"0"), (b"date", date), (b"connection", b"close")]
        await self._send(h11.Response(status_code=status, headers=headers), h11.EndOfMessage())
        left = _DRAINED
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                while left > 0 and (data := await self._reader.read(CHUNK)):
                    left -= len(data)

    async def answer(self, answer: h11.Response) -> None:
        """Begin to pass an answer on: its status, its kind and its length."""
        kept = [(name, value) for name, value in answer.headers if name in _ANSWERED]
        await self._send(h11.Response(status_code=answer.status_code, headers=kept))

    async def send(self, data: bytes) -> None:
        """Pass on a piece of the answer's body."""
        await self._send(h11.Data(data=data))

    async def end(self) -> bool:
        """End the answer; returns whether the connection can carry another request."""
        await self._send(h11.EndOfMessage())
        return self.again()


class Behind(_Side):
    """The server behind the gate."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        super().__init__(h11.CLIENT, reader, writer, limits)

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still there."""
        return not (self._reader.at_eof() or self._writer.is_closing())

    async def ask(
        self, target: bytes, headers: Pairs, size: int, body: AsyncIterator[bytes]
    ) -> None:
        """Send a request.

        Args:
            target: The path.
            headers: Without those of framing.
            size: Bytes of the body.
            body: Its pieces.
        """
        own = [(b"host", b"localhost"), (b"content-length", b"%d" % size)]
        await self._send(h11.Request(method="POST", target=target, headers=[*own, *headers]))
        async for data in body:
            await self._send(h11.Data(data=data))
        await self._send(h11.EndOfMessage())

    async def answer(self) -> h11.Response:
        """The answer's head.

        Raises:
            TimeoutError: It did not come in time.
            h11.RemoteProtocolError: It is no proper answer, or the connection was closed.
        """
        async with asyncio.timeout(self._limits.answer_seconds):
            event = await self._event()
        if isinstance(event, h11.Response):
            return event
        raise h11.RemoteProtocolError("no answer")
