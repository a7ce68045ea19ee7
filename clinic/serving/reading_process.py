"""The process that reads uploaded files, so that one that breaks a reader breaks nothing else.

It has bounds on memory, on computing time and on what it writes, leaves no core file, and whatever
a library prints goes nowhere: it may quote a patient's record. It is no sandbox: a file that took
a library over could do here what the service's own user can.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

from fedward.clinic.serving.frames import LENGTH, frame, head_length, head_of


def main() -> None:
    """Answer frames on standard input until it ends."""
    asking = sys.stdin.buffer
    telling = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    head, _ = _next(asking)
    readers = [_Reader(**each) for each in head["models"]]
    _bound(head["memory"])
    telling.write(frame({"ready": True}))
    telling.flush()
    while True:
        try:
            head, bodies = _next(asking)
        except EOFError:
            return
        _bound_time(head["seconds"])
        names = head["names"]
        telling.write(readers[head["model"]].answer(dict(zip(names, bodies, strict=True))))
        telling.flush()


class _Reader:
    """Reads files as one study's model sees them."""

    def __init__(self, study: dict[str, Any], scaling: list[list[float]] | None) -> None:
        from fedward.clinic.unlabelled import read_unlabelled
        from fedward.study.scaling import Scaling
        from fedward.study.study import parse_study

        self._read = read_unlabelled
        self._study = parse_study(study)
        self._scaling = None if scaling is None else Scaling(*map(tuple, scaling))

    def answer(self, files: dict[str, bytes]) -> bytes:
        from fedward.clinic.serving.refusal import Refusal, refusal_of
        from fedward.study.errors import FedwardError

        try:
            found = self._read(files, self._study, self._scaling)
            inputs = found.inputs.contiguous().numpy()
            return frame(
                {
                    "shape": list(inputs.shape),
                    "dtype": inputs.dtype.str,
                    "names": list(found.names),
                },
                [inputs.tobytes()],
            )
        except FedwardError as error:
            refusal = refusal_of(error)
        except MemoryError:
            refusal = Refusal(413, "the file becomes too large when it is unpacked")
        except Exception as error:  # of any of the libraries that read; its words may quote values
            refusal = Refusal(400, f"the file cannot be read ({type(error).__name__})")
        return frame({"status": refusal.status, "what": refusal.what, "todo": refusal.todo})


def _next(file: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    head = head_of(_exactly(file, head_length(_exactly(file, LENGTH.size))))
    return head, [_exactly(file, size) for size in head["sizes"]]


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _bound(memory: int) -> None:
    """So many more bytes of memory than now, as many in one file, and no core file."""
    status = Path("/proc/self/status")
    now = 0
    if status.exists():
        (line,) = [found for found in status.read_text().splitlines() if found[:7] == "VmData:"]
        now = int(line.split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (now + memory, now + memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _bound_time(seconds: int) -> None:
    """So many more seconds of computing than now: who waits for the answer may have died."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    until = math.ceil(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (until, most))


if __name__ == "__main__":
    main()
