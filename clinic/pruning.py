"""Weights near 0 set to 0 for good (magnitude pruning: Han et al. 2015)."""

from __future__ import annotations

import copy

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import prune

_MATRICES = ("weight", "weight_ih_l0", "weight_hh_l0")


def pruned(model: nn.Module, share: float) -> nn.Module:
    """The same network with the smallest of its matrices' and kernels' weights at 0.

    The smallest are found over all layers together. Biases, embeddings and normalisation stay.

    Args:
        model: It is not changed.
        share: Of the weights, above 0 and below 1.
    """
    changed = copy.deepcopy(model)
    kinds = (nn.Linear, _ConvNd, nn.RNN, nn.LSTM, nn.GRU)
    chosen = [
        (layer, name)
        for layer in changed.modules()
        if isinstance(layer, kinds)
        for name in _MATRICES
        if hasattr(layer, name)
    ]
    if not chosen:
        return changed
    prune.global_unstructured(chosen, pruning_method=prune.L1Unstructured, amount=share)
    for layer, name in chosen:
        prune.remove(layer, name)
    return changed.eval().requires_grad_(requires_grad=False)
