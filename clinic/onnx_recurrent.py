"""Recurrent layers as ONNX has them, so that a model takes records of any length.

PyTorch's exporter writes out a step of an LSTM or of Elman's network for each step of the example,
and the model would then take records of that length alone. ONNX has operators of its own for these
layers (version 14, of its operator sets 14 to 21), whose gates come in another order.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_ORDERS = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # ONNX's gates in PyTorch's order


def with_onnx_recurrence(model: nn.Module) -> nn.Module:
    """The same network with recurrent layers that only an exporter understands.

    Args:
        model: It is not changed; layers that are not of one direction and one level, batch first,
            are left to the exporter.
    """
    changed = copy.deepcopy(model)
    for path, layer in list(changed.named_modules()):
        if isinstance(layer, nn.RNN | nn.LSTM | nn.GRU) and _plain(layer):
            changed.set_submodule(path, _Recurrent(layer))
    return changed


def _plain(layer: nn.RNNBase) -> bool:
    one = layer.num_layers == 1 and not layer.bidirectional and not layer.proj_size
    return one and layer.batch_first and layer.bias


class _Recurrent(nn.Module):
    """One layer, forwards; gives every step's state and nothing else."""

    def __init__(self, layer: nn.RNN | nn.LSTM | nn.GRU) -> None:
        super().__init__()
        kind = next(name for name in _ORDERS if isinstance(layer, getattr(nn, name)))
        self._kind, self._hidden = kind, layer.hidden_size
        order = _ORDERS[kind]
        into, back, *biases = (
            torch.cat([layer.get_parameter(name).detach().chunk(len(order))[g] for g in order])
            for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        )
        self.register_buffer("into", into.unsqueeze(0))
        self.register_buffer("back", back.unsqueeze(0))
        self.register_buffer("biases", torch.cat(biases).unsqueeze(0))
        self._attributes: dict[str, Any] = {"hidden_size": layer.hidden_size}
        if isinstance(layer, nn.GRU):
            self._attributes["linear_before_reset"] = 1  # as PyTorch's
        if isinstance(layer, nn.RNN):
            self._attributes["activations"] = [layer.nonlinearity.capitalize()]

    def forward(self, features: Tensor) -> tuple[Tensor, None]:
        """States (n, time, hidden) after each step of features (n, time, width)."""
        n, time, _ = features.shape
        states = torch.onnx.ops.symbolic(
            self._kind,
            (features.transpose(0, 1), *(self.get_buffer(n) for n in ("into", "back", "biases"))),
            attrs=self._attributes,
            dtype=features.dtype,
            shape=(time, 1, n, self._hidden),
            version=14,
        )
        return states.squeeze(1).transpose(0, 1), None
