"""The gate in a thread of its own, for a program that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

from fedward.server.gate import Gate, Route

T = TypeVar("T")


class GateThread:
    """Opens a gate, and closes it when left.

    Args:
        gate: Not yet open.
        host: Address to listen on; empty for all.
        port: 0 for a free one.
    """

    def __init__(self, gate: Gate, host: str, port: int) -> None:
        self._gate = gate
        self._where = host, port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gate", daemon=True)
        self.port = 0

    def __enter__(self) -> Self:
        """Listen.

        Raises:
            ServiceError: The address cannot be listened on.
        """
        self._thread.start()
        try:
            self.port = self._do(self._gate.open(*self._where))
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Cut every connection."""
        self._do(self._gate.close())
        self._end()

    @property
    def leads(self) -> bool:
        """Whether anything is behind."""
        return self._gate.route is not None

    def lead_to(self, route: Route | None) -> None:
        """Change what is behind; nothing is while it is None."""
        self._gate.route = route  # one assignment, which the other thread sees whole

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
