"""Room that callers take and give back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest

from fedward.server.allowance import Allowance, NoRoom


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 10))


async def hold(room: Allowance, who: str, size: int, seconds: float = 5) -> AsyncExitStack:
    held = AsyncExitStack()
    await held.enter_async_context(room.taken(who, size, seconds=seconds))
    return held


@pytest.mark.parametrize(("who", "size"), [("a", 3), ("b", 8)], ids=["of one", "of all"])
def test_who_finds_no_room_waits_for_it(who: str, size: int) -> None:
    async def work() -> None:
        room = Allowance(10, 5)
        held = await hold(room, "a", 4)
        with pytest.raises(NoRoom):
            await hold(room, who, size, seconds=0.01)

        late = asyncio.create_task(hold(room, who, size))
        await asyncio.sleep(0.01)
        assert not late.done()
        await held.aclose()
        await (await late).aclose()
        await hold(room, "c", 10)

    run(work)


def test_whoever_holds_nothing_gets_even_too_much_alone() -> None:
    async def work() -> None:
        room = Allowance(10, 5)
        held = await hold(room, "a", 20)
        with pytest.raises(NoRoom):
            await hold(room, "b", 1, seconds=0.01)
        await held.aclose()
        await hold(room, "b", 1)

    run(work)


def test_who_gives_up_leaves_nothing_behind() -> None:
    async def work() -> None:
        room = Allowance(10, 10)
        held = await hold(room, "a", 10)
        gone, next_one = (asyncio.create_task(hold(room, who, 10)) for who in "bc")
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        await held.aclose()
        await (await next_one).aclose()

        held = await hold(room, "a", 10)
        too_late = asyncio.create_task(hold(room, "b", 10))
        await asyncio.sleep(0.01)
        await held.aclose()  # its turn has come, and at once it goes away
        too_late.cancel()
        await asyncio.gather(too_late, return_exceptions=True)
        await hold(room, "c", 10, seconds=0.01)

    run(work)
