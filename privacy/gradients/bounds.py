"""How a patient's gradient is bounded; whatever the way, its norm is at most C afterwards."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Clipping = Literal["flat", "per_layer", "automatic"]
_GAMMA = 0.01  # keeps small gradients small under automatic clipping (Bu et al. 2023, AUTO-S)


def clip_factors(
    squares: Tensor, layers: list[list[int]], bound: float, clipping: Clipping, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """What to multiply each patient's gradients by.

    `flat` shortens what is longer than C. `per_layer` does so with each layer by itself, to
    C / root of the number of layers. `automatic` takes C / (norm + 0.01) of every gradient, so that
    C is only a part of the learning rate (Bu et al. 2023, "Automatic clipping").

    Args:
        squares: Squared norms, shape (parameters, patients), float64; a row may be of several
            parameters.
        layers: Which rows are bounded together by themselves, of `per_layer`.
        bound: C.
        clipping: The way.
        dtype: In which norms and sums are computed: factors leave room for its rounding.

    Returns:
        Factors, shape (parameters, patients), float64, and which patients' gradients are finite,
        shape (patients,). The others' factors are 0: what is hardly finite cannot be clipped
        exactly.
    """
    finite = squares.sum(dim=0) <= torch.finfo(dtype).max
    room = 1 - 16 * torch.finfo(dtype).eps
    if clipping != "per_layer":
        norms = squares.sum(dim=0).sqrt()
        limit = bound * room
        whole = norms + _GAMMA if clipping == "automatic" else norms.clamp(min=limit)
        return torch.where(finite, limit / whole, 0.0).expand_as(squares), finite
    factors = torch.empty_like(squares)
    limit = bound / math.sqrt(len(layers)) * room
    for indices in layers:
        factors[indices] = limit / squares[indices].sum(dim=0).sqrt().clamp(min=limit)
    return torch.where(finite, factors, 0.0), finite
