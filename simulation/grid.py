"""A Flower grid without a network: messages go straight to the hospitals' ClientApp.

Replies come back in the order in which the requests were pushed, whatever worker was first, so that
sums are added in one order and a seed repeats a run bit for bit. Tested on flwr 1.41; private of
Flower here: `TaskIdentity`, `Run`, `NodeInfo`, and setting a message's identifier.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType

import torch
from flwr.app import Context, Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedward.client.app import app as hospital_app

SECONDS_TO_START_WORKERS = 4.0
_CLIENT_APP_RAISED_EXCEPTION = 2


class InProcessGrid(Grid):
    """Hospitals on this machine.

    Work starts in this process. Once it has taken as long as starting worker processes would (the
    ski-rental rule: never worse than twice the best choice in hindsight), it moves to workers.
    """

    def __init__(
        self,
        hospitals: Sequence[Path],
        *,
        client_app: ClientApp = hospital_app,
        workers: int = 1,
        patience: float = SECONDS_TO_START_WORKERS,
    ) -> None:
        """Set up nodes 1, 2, ... for these hospitals.

        Args:
            hospitals: Their `hospital.toml` files.
            client_app: What answers; another than the hospitals' own needs `workers=1`.
            workers: Processes to use at most.
            patience: Seconds of work in this process before workers are started.
        """
        if workers > 1 and client_app is not hospital_app:
            raise ValueError("worker processes run the hospitals' own app only")
        self._app = client_app
        self._contexts = {
            number: _context(number, path) for number, path in enumerate(hospitals, start=1)
        }
        self._workers = min(workers, len(hospitals))
        self._patience = patience
        self._pool: ProcessPoolExecutor | None = None
        self._broken = False
        self._waiting: dict[str, tuple[Message, Future[Message] | None]] = {}
        self._pushed = 0
        self.set_run(Run.create_empty(run_id=1))

    def __enter__(self) -> InProcessGrid:
        """Nothing to open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def set_run(self, run: Run) -> None:
        """Take a run's identity for the messages."""
        self._run = run
        _take_identity(run.run_id)

    @property
    def run(self) -> Run:
        """The run's identity."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message as Flower makes it."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Numbers of the hospitals, from 1."""
        return list(self._contexts)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The hospitals as Flower describes nodes."""
        return [NodeInfo(node_id=number) for number in self._contexts]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Queue messages; with workers, work on them begins at once."""
        if self._broken and self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool, self._broken = None, False
        if self._pool is None and self._workers > 1 and self._patience <= 0:
            self._pool = start_workers(self._workers)
        identifiers = []
        for message in messages:
            self._pushed += 1
            identifier = str(self._pushed)
            message.metadata.__dict__["_message_id"] = identifier
            self._waiting[identifier] = (message, self._submit(message))
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the first of these messages that was pushed, as a list of one."""
        wanted = set(message_ids)
        first = next((i for i in self._waiting if i in wanted), None)
        if first is None:
            return []
        message, coming = self._waiting.pop(first)
        return [self._answer_here(message) if coming is None else self._wait(coming, message)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull every reply."""
        waiting = list(self.push_messages(messages))
        return [reply for identifier in waiting for reply in self.pull_messages([identifier])]

    def _answer_here(self, message: Message) -> Message:
        started = time.monotonic()
        reply = answer(self._app, message, self._contexts[message.metadata.dst_node_id])
        self._patience -= time.monotonic() - started
        return reply

    def _submit(self, message: Message) -> Future[Message] | None:
        if self._pool is None:
            return None
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._pool.submit(_answer_in_worker, message, context)
        except BrokenProcessPool as error:  # a worker died while requests were pushed
            failed: Future[Message] = Future()
            failed.set_exception(error)
            return failed

    def _wait(self, coming: Future[Message], message: Message) -> Message:
        try:
            return coming.result()
        except BrokenProcessPool:
            self._broken = True  # the next push starts new workers
            reason = "the worker process died (out of memory?)"
            return Message(Error(_CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answer(client_app: ClientApp, message: Message, context: Context) -> Message:
    """A ClientApp's reply; what it raises becomes an error reply, as on a real node."""
    try:
        return client_app(message, context)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        return Message(Error(_CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _answer_in_worker(message: Message, context: Context) -> Message:
    return answer(hospital_app, message, context)


def start_workers(count: int) -> ProcessPoolExecutor:
    """Fresh processes that compute as this one does."""
    level = logging.getLogger("flwr").level
    return ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(level,)
    )


def _start_worker(log_level: int) -> None:
    torch.set_num_threads(1)  # as the parent does: the number of threads changes the last bits
    logging.getLogger("flwr").setLevel(log_level)
    _take_identity(run_id=1)


def _take_identity(run_id: int) -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, 0, 1


def _context(number: int, path: Path) -> Context:
    return Context(
        run_id=1,
        node_id=number,
        node_config=UserConfig({"hospital": str(path), "simulated": True}),
        state=RecordDict(),
        run_config=UserConfig(),
    )
