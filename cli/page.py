"""What both commands `page` do: serve a page to this machine until they are told to end."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fedward.cli.console import output
from fedward.study.errors import ServiceError
from fedward.web.served_page import ADDRESS_FILE, ServedPage

if TYPE_CHECKING:
    from fastapi import FastAPI


def show(app: FastAPI, state: Path, *, port: int, name: str) -> None:
    """Serve a page until SIGTERM or Ctrl-C.

    Args:
        app: The page.
        state: Folder in which its address is written.
        port: On loopback.
        name: Of the page's cookie.

    Raises:
        ServiceError: It cannot be served, or ended by itself.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with ServedPage(app, state, port=port, name=name) as page:
        output.print(f"The page is at port {page.port} of this machine.")
        told_address(state)
        while not stop.wait(1.0):
            if not page.is_alive:
                raise ServiceError(
                    "the page ended by itself", todo="start it again", where=f"port {page.port}"
                )


def told_address(state: Path) -> None:
    """Say what opens a page: to a person the address itself, to a log only where it is.

    Raises:
        ServiceError: There is none.
    """
    file = state / ADDRESS_FILE
    try:
        address = file.read_text(encoding="ascii").strip()
    except OSError:
        raise ServiceError(
            "no page is shown", todo="see the service's log", where=str(file)
        ) from None
    if sys.stdout.isatty():
        typer.echo(f"Open, once: {address}")
    output.print(f"Each next address, for another browser, is in {file}", soft_wrap=True)
