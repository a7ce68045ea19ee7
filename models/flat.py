"""A model as one flat vector: what travels, and what is added up.

The vector holds every floating-point entry of the state dict, parameters and buffers alike, in the
order of the state dict; but for a pretrained model's own, which everybody has already. What stands
there under two names (tied weights, layers that rename theirs) counts once, under the first.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn

from fedward.study.messages import Vector

_FIXED = "fixed_entries"  # attribute of a network: entries of its state dict that do not travel


def leave_out_untrained(model: nn.Module) -> None:
    """From now on what is not trained of a network is not in its vector: everybody has it."""
    every = model.named_parameters(remove_duplicate=False)
    fixed = frozenset(name for name, parameter in every if not parameter.requires_grad)
    setattr(model, _FIXED, fixed)


def names(model: nn.Module) -> tuple[str, ...]:
    """Names of the entries of the vector, in its order."""
    return tuple(_entries(model))


def flatten(model: nn.Module, among: Collection[str] | None = None) -> Vector:
    """The model's floating-point state, shape (d,), float32.

    Args:
        model: To read.
        among: Names of the entries that are wanted; all of them if None.
    """
    wanted = _entries(model, among).values()
    entries = [entry.detach().float().cpu().flatten() for entry in wanted]
    vector: Vector = torch.cat([torch.zeros(0), *entries]).numpy()
    return vector


def load(model: nn.Module, vector: Vector, among: Collection[str] | None = None) -> None:
    """Put a flat vector back into the model, in place.

    Args:
        model: To write.
        vector: Shape (d,).
        among: Names of the entries that are in the vector; all of them if None.

    Raises:
        ValueError: The vector has another length than the model, or a layer hands out copies of its
            weights, into which nothing can be put.
    """
    entries = _entries(model, among)
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
    """The state dict, less what everybody has, on the CPU and contiguous, as files store it."""
    return {name: entry.detach().cpu().contiguous() for name, entry in _once(model).items()}


def _entries(model: nn.Module, among: Collection[str] | None = None) -> dict[str, Tensor]:
    found = {name: entry for name, entry in _once(model).items() if entry.is_floating_point()}
    return found if among is None else {n: entry for n, entry in found.items() if n in among}


def _once(model: nn.Module) -> dict[str, Tensor]:
    found: dict[int, tuple[str, Tensor]] = {}
    fixed: frozenset[str] = getattr(model, _FIXED, frozenset())
    for name, entry in model.state_dict().items():
        if name in fixed:
            continue
        found.setdefault(entry.data_ptr() or id(entry), (name, entry))  # an empty one has no place
    return dict(found.values())
