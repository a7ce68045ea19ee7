"""Uploaded files, read in a process of their own.

That keeps apart crashes, memory and what is left of a file. It is no sandbox: the process runs as
the service's user. So its answers are checked as a stranger's are.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedward.clinic.serving.door import LOG
from fedward.clinic.serving.frames import LENGTH, frame, head_length, head_of
from fedward.clinic.serving.refusal import Refusal
from fedward.clinic.serving.served_model import ServedModel

_WAITING = 16
_STARTING = 120.0  # seconds
_LOOKING = 10.0  # seconds between two looks at whether the process lives
_PIPE = 1 << 20
_STATUSES = frozenset({400, 413, 415, 500})
_COMMAND = (sys.executable, "-P", "-m", "fedward.clinic.serving.reading_process")
_NEEDED = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "LANG", "LC_ALL")


class Read(NamedTuple):
    """An upload as the model sees it.

    Attributes:
        inputs: Shape (n, ...).
        names: What each record is called, n of them.
    """

    inputs: NDArray[Any]
    names: tuple[str, ...]


class Reading:
    """Reads one upload after the other; a process that breaks or hangs is replaced.

    Args:
        models: Whose uploads are read.
        memory: Bytes that the process may need beyond what it has at its start.
        seconds: For one upload.
        command: What starts the process.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        memory: int = 2 << 30,
        seconds: float = 30.0,
        command: Sequence[str] = _COMMAND,
    ) -> None:
        self._places = {model.name: place for place, model in enumerate(models)}
        self._head = frame({"models": [_said(model) for model in models], "memory": memory})
        self._seconds = seconds
        self._command = command
        self._process: Process | None = None
        self._folder: Path | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0
        self.broken = False
        """Whether the process could not be started when it was last tried."""

    async def stand_ready(self) -> None:
        """Have a process ready, so that no upload waits for its imports; goes on until cancelled.

        One that cannot be started shows in `broken`, and is tried again.
        """
        while True:
            async with self._turn:
                with contextlib.suppress(Refusal):
                    await self._started()
            await asyncio.sleep(_LOOKING)

    async def read(self, model: ServedModel, files: Mapping[str, bytes]) -> Read:
        """Read files that belong together.

        Raises:
            Refusal: They cannot be read, or too many wait, or nothing can be read now.
        """
        if self._waiting >= _WAITING:
            raise Refusal(429, "too many uploads wait already", todo="ask again in a moment")
        self._waiting += 1
        try:
            async with self._turn:
                return await self._asked(model, files)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process, and leave nothing of what it wrote."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder)

    async def _asked(self, model: ServedModel, files: Mapping[str, bytes]) -> Read:
        process = await self._started()
        said = {
            "model": self._places[model.name],
            "names": list(files),
            "seconds": math.ceil(self._seconds) + 1,
        }
        try:
            async with asyncio.timeout(self._seconds):
                head, bodies = await _exchange(process, frame(said, list(files.values())))
            found = _told(head, bodies, model)
        except TimeoutError:
            await self.close()
            raise Refusal(413, "the file takes too long to read") from None
        except (EOFError, OSError, KeyError, TypeError, ValueError):  # it died, or spoke nonsense
            await self.close()
            raise Refusal(400, "the file broke the process that reads it") from None
        except asyncio.CancelledError:  # its answer would be taken for the next one's
            await self.close()
            raise
        if isinstance(found, Refusal):
            raise found
        return found

    async def _started(self) -> Process:
        """The process, a new one if there is none.

        Raises:
            Refusal: It cannot be started.
        """
        if self._process is not None and self._process.returncode is None:
            return self._process
        await self.close()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="fedward-reading-"))
            async with asyncio.timeout(_STARTING):
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=PIPE,
                    stdout=PIPE,
                    limit=_PIPE,
                    env=_environment(self._folder),
                    start_new_session=True,  # Control-C at the terminal is the service's to answer
                )
                await _exchange(self._process, self._head)
        except (EOFError, OSError, ValueError) as error:  # a timeout is an OSError
            self.broken = True
            LOG.error("the process that reads files cannot be started (%s)", type(error).__name__)
            await self.close()
            raise Refusal(
                503, "the service cannot read files now", todo="ask whoever runs the service"
            ) from None
        except asyncio.CancelledError:
            await self.close()
            raise
        self.broken = False
        return self._process


async def _exchange(process: Process, asked: bytes) -> tuple[dict[str, Any], list[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise EOFError
    process.stdin.write(asked)
    await process.stdin.drain()
    length = head_length(await process.stdout.readexactly(LENGTH.size))
    head = head_of(await process.stdout.readexactly(length))
    return head, [await process.stdout.readexactly(size) for size in head["sizes"]]


def _told(head: Mapping[str, Any], bodies: Sequence[bytes], model: ServedModel) -> Read | Refusal:
    """What the process answered.

    Raises:
        KeyError, TypeError, ValueError: It is no answer.
    """
    if "status" in head:
        status, what, todo = head["status"], head["what"], head["todo"]
        if status not in _STATUSES or not isinstance(what, str) or not isinstance(todo, str):
            raise ValueError("no refusal")
        return Refusal(int(status), what, todo=todo)
    (body,) = bodies
    dtype, shape, names = head["dtype"], head["shape"], head["names"]
    if not isinstance(dtype, str) or np.dtype(dtype).kind not in "fiub":
        raise ValueError("no numbers")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("no shape")
    inputs = np.frombuffer(body, np.dtype(dtype)).reshape(shape)
    if len(names) != len(inputs) or not all(isinstance(name, str) for name in names):
        raise ValueError("not a name for each record")
    return Read(inputs, tuple(names))


def _environment(folder: Path) -> dict[str, str]:
    """What Python needs, and none of the operator's secrets."""
    kept = {name: os.environ[name] for name in _NEEDED if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder), "HOME": str(folder)}


def _said(model: ServedModel) -> dict[str, Any]:
    scaling = model.scaling
    return {
        "study": model.said.study,
        "scaling": None if scaling is None else [list(scaling.centers), list(scaling.scales)],
    }
