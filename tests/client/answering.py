"""A server that treats every connection in one way, and what a hospital's line meets there."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.fleet import FleetConnection
from fedward.client.fleet_errors import FleetError
from tests.superlink_ward import Authority

KEY = ec.generate_private_key(ec.SECP384R1())
AUTHORITY = Authority()


@contextmanager
def answering(
    folder: Path,
    answer: Callable[[socket.socket], None],
    *,
    authority: Authority = AUTHORITY,
    days: tuple[int, int] = (-1, 30),
    host: str = "127.0.0.1",
    tls: bool = True,
) -> Iterator[str]:
    """A server that treats every connection in one way."""
    certificate, key = authority.certify(folder, days=days, host=host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    door = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                line, _ = door.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(line, server_side=True) if tls else line as inside:
                    inside.settimeout(5)
                    answer(inside)
            except OSError:
                continue

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"127.0.0.1:{door.getsockname()[1]}"
    door.shutdown(socket.SHUT_RDWR)
    door.close()
    thread.join(10)


def read(line: socket.socket) -> None:
    """Take a whole request: who closes with some of it unread cuts the line."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += line.recv(65536)
    head, _, body = found.partition(b"\r\n\r\n")
    left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(line.recv(left))


def saying(status: int, headers: str = "", body: bytes = b"") -> Callable[[socket.socket], None]:
    def answer(line: socket.socket) -> None:
        read(line)
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
        line.sendall(head.encode() + body)

    return answer


def error_at(address: str, *, now: Callable[[], float] = time.time, ca: bytes = b"") -> FleetError:
    """What the first request to an address meets."""
    timeout = httpx.Timeout(1.0)
    line = FleetConnection(address, ca or AUTHORITY.pem, KEY, now=now, timeout=timeout)
    try:
        with pytest.raises(FleetError) as caught:
            line.activate()
    finally:
        line.close()
    assert "\n" not in caught.value.line()
    assert caught.value.line().startswith(f"{address}: ")
    return caught.value
