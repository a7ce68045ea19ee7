"""A model as one flat vector: what travels, and what is added up.

The vector holds every floating-point entry of the state dict, parameters and buffers alike, in the
order of the state dict.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedward.study.messages import Vector


def flatten(model: nn.Module) -> Vector:
    """The model's floating-point state, shape (d,), float32."""
    entries = [entry.detach().float().cpu().flatten() for entry in _entries(model).values()]
    vector: Vector = torch.cat(entries).numpy()
    return vector


def load(model: nn.Module, vector: Vector) -> None:
    """Put a flat vector back into the model, in place.

    Raises:
        ValueError: The vector has another length than the model.
    """
    entries = _entries(model)
    sizes = [entry.numel() for entry in entries.values()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a model of {sum(sizes)} values cannot hold a vector of {vector.shape}")
    pieces = torch.from_numpy(np.array(vector, dtype=np.float32)).split(sizes)
    with torch.no_grad():
        for entry, piece in zip(entries.values(), pieces, strict=True):
            entry.copy_(piece.view_as(entry))


def named(model: nn.Module) -> dict[str, Tensor]:
    """The whole state dict, on the CPU and contiguous, as model files store it."""
    return {name: entry.detach().cpu().contiguous() for name, entry in model.state_dict().items()}


def _entries(model: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
