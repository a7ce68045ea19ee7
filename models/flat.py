"""A model as one flat vector: what travels, and what is added up.

The vector holds every floating-point entry of the state dict, parameters and buffers alike, in the
order of the state dict. What stands there under two names (tied weights, layers that rename theirs)
counts once, under the first.
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
        ValueError: The vector has another length than the model, or a layer hands out copies of its
            weights, into which nothing can be put.
    """
    entries = _entries(model)
    own = {entry.data_ptr() for entry in (*model.parameters(), *model.buffers())}
    for name, entry in entries.items():
        if entry.data_ptr() not in own:
            raise ValueError(f"the model's {name!r} is a copy of its weights")
    sizes = [entry.numel() for entry in entries.values()]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"a model of {sum(sizes)} values cannot hold a vector of {vector.shape}")
    pieces = torch.from_numpy(np.array(vector, dtype=np.float32)).split(sizes)
    with torch.no_grad():
        for entry, piece in zip(entries.values(), pieces, strict=True):
            entry.copy_(piece.view_as(entry))


def named(model: nn.Module) -> dict[str, Tensor]:
    """The state dict, on the CPU and contiguous, as model files store it."""
    return {name: entry.detach().cpu().contiguous() for name, entry in _once(model).items()}


def _entries(model: nn.Module) -> dict[str, Tensor]:
    return {name: entry for name, entry in _once(model).items() if entry.is_floating_point()}


def _once(model: nn.Module) -> dict[str, Tensor]:
    found: dict[int, tuple[str, Tensor]] = {}
    for name, entry in model.state_dict().items():
        found.setdefault(entry.data_ptr() or id(entry), (name, entry))  # an empty one has no place
    return dict(found.values())
