"""Where a hospital's randomness comes from: the operating system, or a seed in a simulation."""

from __future__ import annotations

import hashlib
import secrets

import torch


def generator(seed: int | None, *purpose: object, device: str = "cpu") -> torch.Generator:
    """A fresh generator.

    Args:
        seed: A simulation's seed; None draws from the operating system's entropy.
        purpose: What it is for (hospital, run, round, ...): another purpose, another stream.
        device: Device of the tensors that it fills.
    """
    return torch.Generator(device=device).manual_seed(_number(seed, purpose))


def _number(seed: int | None, purpose: tuple[object, ...]) -> int:
    if seed is None:
        return secrets.randbits(63)
    text = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
