"""How a Unix socket is called when its path is longer than such an address can be.

An address has about 100 bytes, wherever the folder is. Through an open descriptor of the folder
(`/proc/self/fd/7/socket`, Linux) it is short.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedward.study.errors import DataError

LONGEST = 100
"""Bytes of an address: Linux takes 107, macOS 103."""
_DESCRIPTORS = Path("/proc/self/fd")


class SocketAddress:
    """The address of a socket, for as long as it is in use.

    Attributes:
        target: As gRPC writes it.
    """

    def __init__(self, socket: Path) -> None:
        """Find a short address.

        Args:
            socket: Its path; the folder exists.

        Raises:
            DataError: The path is too long, and this system knows no shorter one.
            OSError: The folder cannot be opened.
        """
        self._folder: int | None = None
        if len(os.fsencode(socket)) <= LONGEST:
            self.target = f"unix:{socket}"
            return
        if not _DESCRIPTORS.is_dir():
            raise DataError(
                f"a socket's path can have about {LONGEST} bytes here",
                todo="set a shorter path as state in hospital.toml",
                where=str(socket),
            )
        self._folder = os.open(socket.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.target = f"unix:{_DESCRIPTORS / str(self._folder) / socket.name}"

    def close(self) -> None:
        """The address is in use no more."""
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None
