"""Requests are put together, kept apart in their answers, and bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedward.clinic.serving.batching import Batching
from fedward.clinic.serving.refusal import Refusal


class Doubling:
    """Doubles numbers, and remembers the sizes of its batches; 13 it cannot."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        self.sizes.append(len(inputs))
        if (inputs == 13).any():
            raise Refusal(400, "13")
        return [inputs * 2]


def rows(*numbers: int) -> NDArray[Any]:
    return np.array(numbers, np.float32)[:, None]


def batching(run: Any, **changes: Any) -> Batching:  # noqa: ANN401
    return Batching(run, **{"largest": 4, "delay": 0.05, "waiting": 100, **changes})


def test_those_who_come_together_are_computed_together_and_get_their_own() -> None:
    run = Doubling()

    async def ask() -> list[Any]:
        each = batching(run)
        found = await asyncio.gather(each.ask(rows(1)), each.ask(rows(2, 3)), each.ask(rows(4)))
        await each.close()
        return [outputs[0].ravel().tolist() for outputs in found]

    assert asyncio.run(ask()) == [[2], [4, 6], [8]]
    assert run.sizes == [4]


def test_a_batch_is_no_larger_than_allowed_whoever_asks() -> None:
    run = Doubling()

    async def ask() -> Any:  # noqa: ANN401
        each = batching(run)
        (found,) = await each.ask(rows(*range(10)))
        await asyncio.gather(*(each.ask(rows(n, n)) for n in range(5)))
        await each.close()
        return found.ravel().tolist()

    assert asyncio.run(ask()) == [2 * n for n in range(10)]
    assert max(run.sizes) == 4
    assert sum(run.sizes) == 20


def test_other_shapes_are_other_batches() -> None:
    run = Doubling()

    async def ask() -> list[int]:
        each = batching(run)
        wide = np.ones((1, 7), np.float32)
        found = await asyncio.gather(each.ask(rows(1)), each.ask(wide), each.ask(rows(2)))
        await each.close()
        return [outputs[0].size for outputs in found]

    assert asyncio.run(ask()) == [1, 7, 1]
    assert sorted(run.sizes) == [1, 2]


def test_one_that_cannot_be_computed_fails_alone() -> None:
    async def ask() -> list[Any]:
        each = batching(Doubling())
        asked = (each.ask(rows(n)) for n in (1, 13, 3))
        found = await asyncio.gather(*asked, return_exceptions=True)
        await each.close()
        return found

    first, second, third = asyncio.run(ask())
    assert isinstance(second, Refusal)
    assert (first[0].item(), third[0].item()) == (2, 6)


def test_too_many_are_refused_and_those_who_leave_make_room() -> None:
    async def ask() -> list[Any]:
        each = batching(Doubling(), waiting=2, delay=30)
        waits = [asyncio.create_task(each.ask(rows(n))) for n in (1, 2)]
        await asyncio.sleep(0.01)
        with pytest.raises(Refusal, match="too many"):
            await each.ask(rows(3))
        waits[0].cancel()
        await asyncio.sleep(0.01)
        more = asyncio.create_task(each.ask(rows(4)))
        await asyncio.sleep(0.01)
        await each.close()
        return list(await asyncio.gather(waits[1], more, return_exceptions=True))

    found = asyncio.run(ask())
    assert [each.status for each in found] == [503, 503]  # told, not left waiting
