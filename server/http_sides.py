"""The caller's side of a request that passes the gate: HTTP over TLS, and its limits.

h11 parses it and is strict about framing; nothing here looks at bytes by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
from dataclasses import dataclass

import h11

CHUNK = 1 << 18
"""Bytes that are read at once; what a connection holds is a small multiple of it."""

_DRAINED = 8 << 20
_DRAIN_SECONDS = 2.0


@dataclass(frozen=True)
class Limits:
    """What one connection, and all of them together, may use.

    Attributes:
        connections: At the same time, of hospitals that were admitted.
        strangers: Connections besides, from the first byte of TLS to the first admitted request.
        strangers_each: The same from one address, or one /64 of IPv6; further ones are closed.
        head: Bytes of a request's line and headers.
        body: Bytes of a request's body that carries an object of a message, 5 or 8 MiB of an array
            at most; the gate holds it in memory, and then the server behind.
        words: The same of every other request; the largest names an answer's objects, or holds a
            short answer.
        bodies: Bytes of all bodies that are held at the same time, but for small ones.
        bodies_each: The same of one hospital; who wants more waits.
        head_seconds: For a stranger until it is admitted, TLS included; later for a request's head
            once its first byte is there.
        idle_seconds: Without a byte, between requests or inside one.
        answer_seconds: Until the server behind has answered.
    """

    connections: int = 1024
    strangers: int = 256
    strangers_each: int = 32
    head: int = 16 << 10
    body: int = 16 << 20
    words: int = 4 << 20
    bodies: int = 1 << 30
    bodies_each: int = 256 << 20
    head_seconds: float = 10.0
    idle_seconds: float = 60.0
    answer_seconds: float = 120.0


class Caller:
    """Whoever reached the public port, and the parser of what it says."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limits: Limits
    ) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head)
        self._reader = reader
        self._writer = writer
        self._limits = limits

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

    async def body(self) -> bytes:
        """The request's body, all of it; how large it may be is known from its head.

        Raises:
            TimeoutError: Nothing came for too long.
            h11.RemoteProtocolError: The caller broke the framing, or closed too early.
        """
        pieces: list[bytes] = []
        while True:
            async with asyncio.timeout(self._limits.idle_seconds):
                event = await self._event()
            if not isinstance(event, h11.Data):
                return b"".join(pieces)
            pieces.append(event.data)

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

    async def answer(self, status: int, kind: bytes, body: bytes) -> bool:
        """Answer, as slowly as the caller reads.

        Args:
            status: HTTP status.
            kind: Media type of the body.
            body: All of it.

        Returns:
            Whether the connection can carry another request.

        Raises:
            TimeoutError: The caller reads no more.
        """
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
        head = h11.Response(status_code=status, headers=headers)
        await self._send(head, h11.Data(data=body[:CHUNK]))
        for start in range(CHUNK, len(body), CHUNK):
            await self._send(h11.Data(data=body[start : start + CHUNK]))
        await self._send(h11.EndOfMessage())
        return self._again()

    def _again(self) -> bool:
        """Whether both messages are whole and the connection can carry another pair."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            return not self._writer.is_closing()
        return False

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(CHUNK))
        return event

    async def _send(self, *events: h11.Event) -> None:
        pieces = [p for event in events for p in self._http.send_with_data_passthrough(event) or ()]
        if not pieces:
            return
        self._writer.writelines(pieces)  # in one record of TLS where they fit
        async with asyncio.timeout(self._limits.idle_seconds):
            await self._writer.drain()
