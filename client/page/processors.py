"""What this machine computes with, and how busy it is."""

from __future__ import annotations

import shutil
import subprocess
from typing import NamedTuple

import psutil

_ASKED = "name,utilization.gpu,memory.used,memory.total,temperature.gpu"
_SECONDS = 10.0


class Gpu(NamedTuple):
    """One NVIDIA GPU.

    Attributes:
        name: Its product's.
        busy: Per cent of the last moment; None if it does not say.
        used: MiB of its memory; None likewise.
        total: MiB of its memory; None likewise.
        celsius: How warm it is; None likewise.
    """

    name: str
    busy: float | None
    used: float | None
    total: float | None
    celsius: float | None


class Machine(NamedTuple):
    """This machine now.

    Attributes:
        gpus: NVIDIA's; none if there are none, or no driver.
        trouble: Why GPUs could not be asked; empty if they could, or there are none.
        cores: Logical processor cores; 0 if nothing of the machine is known.
        busy: Per cent of all of them since the last look.
        used: GiB of memory.
        total: GiB of memory.
    """

    gpus: tuple[Gpu, ...]
    trouble: str
    cores: int
    busy: float
    used: float
    total: float


def this_machine() -> Machine:
    """How busy it is now."""
    gpus, trouble = _gpus()
    memory = psutil.virtual_memory()
    return Machine(
        gpus,
        trouble,
        psutil.cpu_count() or 1,
        psutil.cpu_percent(),
        (memory.total - memory.available) / 2**30,
        memory.total / 2**30,
    )


def unknown_machine(trouble: str) -> Machine:
    """This machine, of which nothing could be found out; `trouble` says why."""
    return Machine((), trouble, 0, 0.0, 0.0, 0.0)


def _gpus() -> tuple[tuple[Gpu, ...], str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return (), ""
    command = [program, f"--query-gpu={_ASKED}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(  # noqa: S603 - the driver's own program
            command, capture_output=True, text=True, timeout=_SECONDS, check=True
        )
        return tuple(map(_gpu, filter(str.strip, done.stdout.splitlines()))), ""
    except (OSError, subprocess.SubprocessError, ValueError, TypeError) as error:
        return (), f"nvidia-smi does not answer ({type(error).__name__})"


def _gpu(line: str) -> Gpu:
    name, *numbers = (cell.strip() for cell in line.rsplit(",", 4))
    return Gpu(name, *map(_number, numbers))


def _number(cell: str) -> float | None:
    """A figure; None where the driver says that it has none, as in `[N/A]`."""
    return None if cell.startswith("[") else float(cell)
