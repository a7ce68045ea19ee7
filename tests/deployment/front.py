"""A door between a hospital and the gate, that a test makes slow, deaf, broken or false."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

Reader: TypeAlias = asyncio.StreamReader
Writer: TypeAlias = asyncio.StreamWriter
Found = TypeVar("Found")
_PIECE = 256  # bytes: a slow line passes them one after another
_HANDSHAKE = 2  # times that a connection changes its direction before the first answer is whole


@dataclass
class Forward:
    """Pass everything on.

    Attributes:
        rate: Bytes a second in each direction; as fast as it goes if None.
        cut_after: Bytes from the hospital, after which every connection is cut, once.
        cut_answer: Bytes of one answer to the hospital, after which every connection is cut, once;
            the handshake's own are not counted.
        silent_up: Bytes from the hospital, after which the connection that carries the last of them
            stays open and passes nothing more, either way; those made later are good.
        silent_down: The same of bytes to the hospital.
        heard: What the hospital sent over each connection, if that is kept.
    """

    rate: float | None = None
    cut_after: int | None = None
    cut_answer: int | None = None
    silent_up: int | None = None
    silent_down: int | None = None
    heard: list[bytearray] | None = None


@dataclass
class Mute:
    """Accept, and never answer."""


@dataclass
class Another:
    """Somebody else's server: its own certificate, and always the same answer."""

    tls: ssl.SSLContext
    answer: bytes = b""


Manner = Forward | Mute | Another


class Front:
    """A TCP server on loopback with a manner that can be changed; changing it cuts the line.

    Attributes:
        port: Where it listens.
        cuts: How often `cut_after` or `cut_answer` was reached.
        silences: How often `silent_up` or `silent_down` was.
    """

    def __init__(self) -> None:
        self.behind = 0
        self.cuts = 0
        self.silences = 0
        self._manner: Manner = Forward()
        self._callers: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = self._do(self._open())

    def behave(self, manner: Manner, *, cut: bool = True) -> None:
        """Change the manner; connections that are open are cut, or keep their manner."""
        self._do(self._change(manner, cut=cut))

    def cut_upload(self, *, after: int) -> None:
        """Cut every connection, once, after so many more bytes from the hospital; none before."""
        assert isinstance(self._manner, Forward)
        self._manner.cut_after = after

    def close(self) -> None:
        self._do(self._change(Mute(), cut=True))
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, Found]) -> Found:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _open(self) -> int:
        self._server = await asyncio.start_server(self._meet, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _shut(self) -> None:
        self._server.close()

    async def _change(self, manner: Manner, *, cut: bool) -> None:
        self._manner = manner
        if cut:
            await self._cut()

    async def _cut(self) -> None:
        callers = [task for task in self._callers if task is not asyncio.current_task()]
        for task in callers:
            task.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    async def _meet(self, reader: Reader, writer: Writer) -> None:
        task, manner = asyncio.current_task(), self._manner
        assert task is not None
        self._callers.add(task)
        try:
            if isinstance(manner, Forward):
                await self._forward(manner, reader, writer)
            elif isinstance(manner, Another):
                await _answer(manner, reader, writer)
            else:
                await asyncio.sleep(3600)
        except (OSError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            task.uncancel()
        finally:
            self._callers.discard(task)
            writer.transport.abort()

    async def _forward(self, manner: Forward, reader: Reader, writer: Writer) -> None:
        there, back = await _opened(self.behind)
        heard = bytearray()
        if manner.heard is not None:
            manner.heard.append(heard)

        silent = asyncio.Event()
        cut, asked, answered = False, 0, 0

        def is_silent(piece: bytes, way: str) -> bool:
            left = getattr(manner, way)
            if left is not None:
                setattr(manner, way, left - len(piece))
                if left <= len(piece):
                    setattr(manner, way, None)
                    self.silences += 1
                    silent.set()
            return silent.is_set()

        async def up(piece: bytes) -> bool:
            nonlocal asked, answered, cut
            if is_silent(piece, "silent_up"):
                await asyncio.sleep(3600)
            heard.extend(piece)
            asked += answered > 0
            answered = 0
            if manner.cut_after is not None:
                manner.cut_after -= len(piece)
                cut = manner.cut_after <= 0
            return not cut

        async def down(piece: bytes) -> bool:
            nonlocal answered, cut
            if is_silent(piece, "silent_down"):
                await asyncio.sleep(3600)
            answered += len(piece)
            if manner.cut_answer is not None and asked > _HANDSHAKE:
                cut = answered > manner.cut_answer
            return not cut

        ways = [
            asyncio.ensure_future(_pipe(reader, back, manner.rate, up)),
            asyncio.ensure_future(_pipe(there, writer, manner.rate, down)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            back.transport.abort()  # before anything is awaited: that may be cut once more
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        if cut:
            manner.cut_after = manner.cut_answer = None
            self.cuts += 1
            self._manner = Forward()
            await self._cut()


async def _opened(port: int) -> tuple[Reader, Writer]:
    """A connection, which is closed if the line is cut before it is used."""
    opening = asyncio.ensure_future(asyncio.open_connection("127.0.0.1", port))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_abort)
        raise


def _abort(opened: asyncio.Future[tuple[Reader, Writer]]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result()[1].transport.abort()


async def _pipe(
    reader: Reader, writer: Writer, rate: float | None, passing: Callable[[bytes], Awaitable[bool]]
) -> None:
    while piece := await reader.read(_PIECE):
        if not await passing(piece):
            return
        if rate is not None:
            await asyncio.sleep(len(piece) / rate)
        writer.write(piece)
        await writer.drain()


async def _answer(manner: Another, reader: Reader, writer: Writer) -> None:
    with contextlib.suppress(ssl.SSLError):
        await writer.start_tls(manner.tls)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(manner.answer)
        await writer.drain()
        await asyncio.sleep(0.2)
