"""The door that tests make bad: what it does to a connection it does wholly."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

import pytest

from tests.deployment.front import Forward, Front


@pytest.fixture
def listening() -> Iterator[int]:
    """The port of a server that takes what comes, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: deque[socket.socket] = deque()

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return
                if len(taken) > 30:  # those of some turns ago; a process may not have many
                    taken.popleft().close()

        thread = threading.Thread(target=take)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in taken:
            connection.close()


def test_a_line_that_is_cut_again_while_it_is_cut_leaves_no_connection_open(listening: int) -> None:
    """One that is left open warns when it is collected, which fails whatever test runs then."""
    front = Front()
    front.behind = listening
    for turn in range(300):
        callers = [socket.create_connection(("127.0.0.1", front.port)) for _ in range(3)]
        for caller in callers:
            caller.sendall(b"x" * 300)
        time.sleep(0.0005 * (turn % 7))
        cutting = []
        for _ in range(2):
            cut = front._change(Forward(), cut=True)
            cutting.append(asyncio.run_coroutine_threadsafe(cut, front._loop))
            time.sleep(0.00005 * (turn % 5))
        for done in cutting:
            done.result(20)
        for caller in callers:
            caller.close()
    front.close()
    gc.collect()
