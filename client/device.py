"""Which processor trains."""

from __future__ import annotations

import torch

from fedward.study.errors import InputError


def choose_device(wanted: str) -> torch.device:
    """The device that a hospital file asks for; `auto` is CUDA, then MPS, then the CPU.

    Raises:
        InputError: The device is not there.
    """
    if wanted == "auto":
        return _best()
    device = torch.device(wanted)
    there = {
        "cuda": torch.cuda.is_available()
        and (device.index or 0) < max(torch.cuda.device_count(), 1),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if not there[device.type]:
        raise InputError(
            f"no device {wanted} on this machine",
            todo='set device = "auto" or "cpu"; `fedward doctor` shows what is there',
            where="device",
        )
    return device


def _best() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
