"""Requests that come at about the same time are computed together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedward.clinic.serving.refusal import Refusal

Outputs = Sequence[NDArray[Any]]
Run = Callable[[NDArray[Any]], Outputs]


@dataclass(eq=False)
class _Asked:
    inputs: NDArray[Any]
    since: float
    answer: asyncio.Future[Outputs] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Batching:
    """Puts records of the same shape into one computation, and gives each asker its own rows.

    A request that cannot be computed spoils no other: a batch that fails is computed again, one
    request at a time.

    Args:
        run: Computes outputs of a batch; rows do not depend on each other. It runs in a thread.
        largest: Most rows of one computation.
        delay: Seconds for which a request waits for others to join it.
        waiting: Most rows that may wait; who comes then is refused.
        batched: Is told the rows of each computation.
    """

    def __init__(
        self,
        run: Run,
        *,
        largest: int,
        delay: float,
        waiting: int,
        batched: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._run, self._largest, self._delay, self._most = run, largest, delay, waiting
        self._batched = batched
        self._waiting: list[_Asked] = []
        self._rows = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._task: asyncio.Task[None] | None = None

    async def ask(self, inputs: NDArray[Any]) -> Outputs:
        """The model's outputs for these inputs, n rows each.

        Args:
            inputs: Checked, shape (n, ...).

        Raises:
            Refusal: Too many wait already, or the input cannot be computed.
        """
        if self._rows and self._rows + len(inputs) > self._most:
            raise Refusal(429, "too many records wait already", todo="ask again in a second")
        if self._task is None:
            self._task = asyncio.create_task(self._compute())
        asked = _Asked(inputs, asyncio.get_running_loop().time())
        self._waiting.append(asked)
        self._rows += len(inputs)
        self._arrived.set()
        try:
            return await asked.answer
        finally:
            self._rows -= len(inputs)

    async def close(self) -> None:
        """Compute no more; whoever still waits is refused."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for asked in self._waiting:
            if not asked.answer.done():
                asked.answer.set_exception(Refusal(503, "the service is stopping"))
        self._thread.shutdown(wait=True)

    async def _compute(self) -> None:
        while True:
            self._waiting = [asked for asked in self._waiting if not asked.answer.done()]
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            await self._gather()
            if batch := self._taken():
                await self._answer(batch)

    async def _gather(self) -> None:
        """Wait until the first that waits has waited long enough, or a batch is full."""
        first = self._waiting[0]
        loop = asyncio.get_running_loop()
        while sum(len(asked.inputs) for asked in self._like(first)) < self._largest:
            left = first.since + self._delay - loop.time()
            if left <= 0:
                return
            self._arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _like(self, first: _Asked) -> list[_Asked]:
        shape = first.inputs.shape[1:]
        return [asked for asked in self._waiting if asked.inputs.shape[1:] == shape]

    def _taken(self) -> list[_Asked]:
        first, *others = self._like(self._waiting[0])
        taken, rows = [first], len(first.inputs)
        for asked in others:
            if rows + len(asked.inputs) > self._largest:
                break
            taken.append(asked)
            rows += len(asked.inputs)
        self._waiting = [asked for asked in self._waiting if asked not in taken]
        return [asked for asked in taken if not asked.answer.done()]

    async def _answer(self, batch: list[_Asked]) -> None:
        try:
            inputs = np.concatenate([asked.inputs for asked in batch])
            found = await self._computed(inputs)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            for asked in batch:
                await self._answer([asked])
            return
        end = 0
        for asked in batch:
            start, end = end, end + len(asked.inputs)
            _settle(asked, [output[start:end] for output in found])

    async def _computed(self, inputs: NDArray[Any]) -> Outputs:
        loop = asyncio.get_running_loop()
        pieces = []
        for start in range(0, len(inputs), self._largest):
            piece = inputs[start : start + self._largest]
            self._batched(len(piece))
            found = await loop.run_in_executor(self._thread, self._run, piece)
            if any(len(output) != len(piece) for output in found):
                raise Refusal(500, "the model does not answer record by record")
            pieces.append(found)
        return [np.concatenate(each) for each in zip(*pieces, strict=True)]


def _settle(asked: _Asked, result: Outputs | Exception) -> None:
    if asked.answer.done():  # its asker has gone
        return
    if isinstance(result, Exception):
        asked.answer.set_exception(result)
    else:
        asked.answer.set_result(result)
