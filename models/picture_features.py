"""A few numbers that say what a picture is like, the same everywhere: a fixed random network.

Sums of features compare many pictures with many others, and no picture with another. Networks that
were trained on photographs (as for the Frechet inception distance, Heusel et al. 2017) would have
to be fetched, and say little of X-rays; a random one needs nothing, and tells pictures apart about
as well where they are far from photographs (Naeem et al. 2020, section 4).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

NUMBERS = 16
"""Features of a picture."""

_CHANNELS = (32, 32)
_KERNEL = 5


@torch.no_grad()
def features(pictures: Tensor) -> Tensor:
    """Features of pictures, shape (n, 16), float32, each of them bounded.

    Args:
        pictures: Shape (n, channels, height, width); what is beyond -1 to 1 counts as that.
    """
    found = pictures.float().clamp(-1, 1)
    *kernels, last = _weights(tuple(pictures.shape[1:]))
    for kernel in kernels:
        found = functional.conv2d(found, kernel.to(found), stride=2, padding=_KERNEL // 2).relu()
    return found.flatten(1) @ last.to(found)


@lru_cache(maxsize=4)
def _weights(shape: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Normal, with the variance that keeps the features' size (He et al. 2015)."""
    source = torch.Generator().manual_seed(0)
    before, height, width = shape
    kernels = []
    for after in _CHANNELS:
        size = (after, before, _KERNEL, _KERNEL)
        scale = (2 / (before * _KERNEL**2)) ** 0.5
        kernels.append(torch.randn(size, generator=source) * scale)
        before, height, width = after, -(-height // 2), -(-width // 2)
    inner = before * height * width
    return (*kernels, torch.randn(inner, NUMBERS, generator=source) / inner**0.5)
