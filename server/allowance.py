"""How much of something all callers together, and each of them, may hold at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class NoRoom(Exception):  # noqa: N818 - reads as the fact that it states
    """A caller waited in vain."""


class Allowance:
    """Room that callers take and give back; who finds none waits, the longest waiting first.

    Whoever holds nothing yet may take more than a bound, alone: a bound that is too small must not
    keep anybody out for ever.

    Args:
        total: For all callers.
        each: For one caller.
    """

    def __init__(self, total: int, each: int) -> None:
        self._total = total
        self._each = each
        self._held: Counter[Hashable] = Counter()
        self._all = 0
        self._waiting: dict[asyncio.Future[None], tuple[Hashable, int]] = {}

    @asynccontextmanager
    async def taken(self, who: Hashable, size: int, *, seconds: float) -> AsyncIterator[None]:
        """Hold so much for one caller.

        Args:
            who: The caller.
            size: How much.
            seconds: To wait for room.

        Raises:
            NoRoom: There was none in time.
        """
        if self._fits(who, size):
            self._take(who, size)
        else:
            await self._wait(who, size, seconds)
        try:
            yield
        finally:
            self._give_back(who, size)

    def _fits(self, who: Hashable, size: int) -> bool:
        held = self._held[who]
        return (not held or held + size <= self._each) and (
            not self._all or self._all + size <= self._total
        )

    def _take(self, who: Hashable, size: int) -> None:
        self._held[who] += size
        self._all += size

    def _give_back(self, who: Hashable, size: int) -> None:
        self._held[who] -= size
        self._all -= size
        if not self._held[who]:
            del self._held[who]
        for turn, (other, wanted) in list(self._waiting.items()):
            if self._fits(other, wanted):
                del self._waiting[turn]
                self._take(other, wanted)
                turn.set_result(None)

    async def _wait(self, who: Hashable, size: int, seconds: float) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = who, size
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(turn)
        except BaseException as error:
            if self._waiting.pop(turn, None) is None:  # its turn had come, too late
                self._give_back(who, size)
            if isinstance(error, TimeoutError):
                raise NoRoom from None
            raise
