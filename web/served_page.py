"""A page that a thread serves, on loopback alone."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from fedward.privacy.secret_file import write_secret
from fedward.study.errors import ServiceError
from fedward.web.door import Door
from fedward.web.uvicorn_server import QuietServer

ADDRESS_FILE = "page-address"
"""In a folder of state: the address that opens the page next, for its owner alone."""

_HOST = "127.0.0.1"
_GRACE = 2  # seconds for answers in flight
_CONNECTIONS = 128
_START = 30.0  # seconds


class ServedPage:
    """Serves from `with` on until its end.

    Args:
        app: The page.
        state: Folder in which its address is written.
        port: On loopback; 0 for any that is free.
        name: Letters, which make the cookie's name.

    Raises:
        ServiceError: The port is taken, or the address cannot be written.
    """

    def __init__(self, app: FastAPI, state: Path, *, port: int, name: str) -> None:
        self._file, self._written = state / ADDRESS_FILE, ""
        try:
            self._socket = socket.create_server((_HOST, port))
        except OSError as error:
            raise ServiceError(
                f"the page cannot listen on port {port} ({error.strerror})",
                todo="choose a free port",
                where=_HOST,
            ) from None
        self.port = int(self._socket.getsockname()[1])
        try:
            door = Door(app, cookie=f"fedward-{name}-{self.port}", changed=self._keep)
        except OSError as error:
            self._socket.close()
            raise ServiceError(
                f"the page's address cannot be written ({error.strerror})", where=str(self._file)
            ) from None
        self._server = QuietServer(
            uvicorn.Config(
                door,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,  # it would show the token
                server_header=False,
                limit_concurrency=_CONNECTIONS,
                timeout_graceful_shutdown=_GRACE,
            )
        )
        app.state.stopping = lambda: self._server.should_exit
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="page", daemon=True
        )

    @property
    def address(self) -> str:
        """What opens the page next."""
        return self._file.read_text(encoding="ascii").strip()

    @property
    def address_file(self) -> Path:
        """Where that is written."""
        return self._file

    @property
    def is_alive(self) -> bool:
        """Whether anybody answers."""
        return self._thread.is_alive()

    def __enter__(self) -> ServedPage:
        """Answer from now on."""
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def _start(self) -> None:
        self._thread.start()
        last = time.monotonic() + _START
        while not self._server.started and self.is_alive and time.monotonic() < last:
            time.sleep(0.01)
        if not self._server.started:
            raise ServiceError("the page did not start", where=f"{_HOST}:{self.port}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answer nobody any more; the address opens nothing, and is taken away."""
        self._end()

    def _end(self) -> None:
        self._server.should_exit = True
        if self.is_alive:
            self._thread.join(_GRACE + 5)
        self._socket.close()
        self._take_away()

    def _take_away(self) -> None:
        """Another page of the same state may have written its own address since."""
        with contextlib.suppress(FileNotFoundError):
            if self._file.read_text(encoding="ascii") == self._written:
                self._file.unlink()

    def _keep(self, token: str) -> None:
        address = f"http://{_HOST}:{self.port}/?token={token}\n"
        write_secret(self._file, address.encode(), over=True)
        self._written = address
