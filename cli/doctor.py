"""`fedward doctor`: what is installed here, and what this machine can do."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from fedward.cli.console import output
from fedward.study.errors import InputError

TESTED_FLOWER = "1.41"
_NEEDED = ("fedward", "flwr", "torch", "opacus", "numpy", "pydantic", "safetensors", "cryptography")


class _Extra(NamedTuple):
    package: str
    gives: str


_EXTRAS = {"ray": _Extra("ray", "simulation on a Ray cluster, and `flwr run .`")}


def doctor() -> None:
    """Say what is installed, which device trains, and which extras are missing.

    Ends with exit code 2 if something that is needed is missing or untested.
    """
    from fedward.simulation.grid import usable_cores

    output.print(f"Python {platform.python_version()} on {platform.platform()}")
    wrong = []
    for package in _NEEDED:
        found = _version(package)
        output.print(f"  {package:<14}{found or 'missing'}")
        if found is None:
            wrong.append(f"{package} is missing")
    flower = _version("flwr") or ""
    if not flower.startswith(f"{TESTED_FLOWER}."):
        wrong.append(f"flwr {flower} is untested (tested: {TESTED_FLOWER})")
    output.print(f"Cores: {usable_cores()}")
    output.print(f"Device for training: {_device()}")
    output.print("Extras:")
    for extra, (package, gives) in _EXTRAS.items():
        found = _version(package)
        state = found or f"missing; for {gives}: pip install 'fedward[{extra}]'"
        output.print(f"  {extra:<14}{state}")
    if wrong:
        raise InputError("; ".join(wrong), todo="install Fedward anew from its constraints.txt")
    output.print("All that is needed is here.")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"CUDA, {torch.cuda.get_device_name()}"
    if torch.backends.mps.is_available():
        return "MPS (Apple)"
    return "CPU"
