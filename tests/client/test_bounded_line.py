"""A line to one server that is closed while something is still on its way."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from fedward.client.bounded_line import BoundedLine
from fedward.client.fleet_errors import ConnectionLost
from tests.client.answering import AUTHORITY, answering

if TYPE_CHECKING:
    import socket


def test_a_line_is_closed_once_the_last_answer_is_here(tmp_path: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slowly(line: socket.socket) -> None:
        line.recv(65536)
        asked.set()
        go_on.wait(30)
        line.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwhole")

    with answering(tmp_path, slowly) as address, ThreadPoolExecutor(1) as other:
        line = BoundedLine(address, "/", AUTHORITY.pem, httpx.Timeout(30))
        answer = other.submit(line.post, "first", b"", {}, 1000)
        assert asked.wait(30)
        line.close()
        with pytest.raises(ConnectionLost, match="was closed"):
            line.post("second", b"", {}, 1000)
        assert not line._client.is_closed
        go_on.set()
        assert answer.result(30)[1] == b"whole"

    assert line._client.is_closed
