"""What a hospital lets one process use of its machine, and what becomes of work that needs more."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedward.client.device import choose_device
from fedward.client.hospital import HospitalFile
from fedward.privacy.precision import Precision
from fedward.study.errors import InputError, TrainingError

_GIB = 2**30
_NO_ROOM = ("can't allocate memory", "not enough memory")  # PyTorch's, on a CPU


class MemoryExhausted(TrainingError):  # noqa: N818 - reads as the fact that it states
    """The work needs more memory than there is, or than the hospital allows."""


def limit_process(hospital: HospitalFile) -> None:
    """Keep this process, which is the hospital's own, to its [training] threads and memory_gib.

    Memory is limited on a CPU by RLIMIT_DATA: what the process may write to, and not the gigabytes
    of addresses that libraries reserve and never touch; on CUDA it is the device's memory.

    Raises:
        InputError: Memory cannot be limited on this kind of machine or device.
    """
    settings = hospital.training
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.memory_gib is None:
        return
    try:
        device = choose_device(hospital.device)
    except InputError:  # told to whoever asks for it
        return
    _limit_memory(device, settings.memory_gib)


def _limit_memory(device: torch.device, gib: float) -> None:
    if device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * _GIB / whole), device)
        return
    if device.type != "cpu" or sys.platform != "linux":
        raise _unlimited(f"{device.type} on {sys.platform}")
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = int(gib * _GIB)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))


def choose_precision(hospital: HospitalFile, device: torch.device) -> Precision:
    """How finely a hospital computes.

    Raises:
        InputError: Its device cannot compute so.
    """
    kind = hospital.training.precision
    if kind == "bfloat16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError(
            f"{torch.cuda.get_device_name(device)} has no bfloat16",
            todo='set precision = "float32" or "float16" in [training] of hospital.toml',
            where="training.precision",
        )
    return Precision(kind)


@contextmanager
def within_memory() -> Iterator[None]:
    """Whatever says that memory is exhausted becomes one error.

    Raises:
        MemoryExhausted: It is.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _exhausted(error):
            raise
        raise MemoryExhausted(
            "out of memory",
            todo="that hospital can raise [training] memory_gib, or lower [limits] records_at_once",
        ) from error


def _exhausted(error: Exception) -> bool:
    named = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return named or any(words in str(error) for words in _NO_ROOM)


def _unlimited(where: str) -> InputError:
    return InputError(
        f"memory cannot be limited here ({where})",
        todo="take memory_gib out of [training] in hospital.toml",
        where="training.memory_gib",
    )
