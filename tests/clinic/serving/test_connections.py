"""Connections that say nothing, or half of it, and too many of one address."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from starlette.responses import PlainTextResponse

from fedward.clinic.serving import service
from fedward.clinic.serving.door import Door, Flying, Limits, Pass
from fedward.clinic.serving.gauges import Gauges
from fedward.clinic.serving.service import Listening
from fedward.web.uvicorn_server import QuietServer

HEAD = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def with_service(ask: Callable[[int], Awaitable[None]]) -> None:
    listening = Listening(port=0)

    async def run() -> None:
        door = Door(PlainTextResponse("here"), Pass(None, 1000), Limits(), Gauges(), Flying(1))
        bound = service._bound(listening)
        server = QuietServer(service._http_config(door, listening))
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            await asyncio.wait_for(ask(bound.getsockname()[1]), 30)
        finally:
            server.should_exit = True
            await serving

    asyncio.run(run())


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionResetError:
        return True


async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD)
    assert (await reader.readuntil(b"here")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("before", "sent"),
    [(False, b""), *((before, part) for before in (False, True) for part in (HEAD[:9], HEAD[:-2]))],
)
def test_half_a_head_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, before: bool, sent: bytes
) -> None:
    monkeypatch.setattr(service, "_HEAD", 0.3)

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if before:
            await answered(reader, writer)
        writer.write(sent)
        assert await asyncio.wait_for(ended(reader), 5)
        writer.close()

    with_service(ask)


def test_a_connection_that_has_asked_may_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_HEAD", 0.2)

    async def ask(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            await answered(reader, writer)
            await asyncio.sleep(0.4)
        writer.close()

    with_service(ask)


def test_an_address_has_not_all_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_OF_ONE_ADDRESS", 3)

    async def ask(port: int) -> None:
        found = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        for reader, writer in found:
            await answered(reader, writer)
        reader, other = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(ended(reader), 5)
        other.close()
        found[0][1].close()
        await asyncio.sleep(0.2)
        reader, other = await asyncio.open_connection("127.0.0.1", port)
        await answered(reader, other)
        for writer in (other, *(writer for _, writer in found)):
            writer.close()

    with_service(ask)
