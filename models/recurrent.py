"""Recurrent networks: Elman's, LSTM and GRU, over tokens or signals.

A private study trains the same layers of PyTorch's; where Opacus' hooks are used they put Opacus'
in their place, whose weights have the same names.
A record's steps end where its mask ends. The other direction reads them from their end, not from
the end of the padding, by turning each record round by itself: no layer of its own is needed.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.steps import Steps, mean_there
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        hidden: Width of each layer, in each direction.
        layers: How many.
        bidirectional: Whether each layer reads in both directions.
        embedding: Width of a token's embedding; of no meaning for signals.
        reads: `last`: the state after the last step of each direction; `mean`: of all steps.
        dropout: Share of each layer's outputs that is dropped in training.
    """

    hidden: Annotated[int, Field(ge=1, le=4096)] = 64
    layers: Annotated[int, Field(ge=1, le=16)] = 1
    bidirectional: bool = False
    embedding: Annotated[int, Field(ge=1, le=4096)] = 32
    reads: Literal["last", "mean"] = "last"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


Recurrent = type[nn.RNN] | type[nn.LSTM] | type[nn.GRU]


def build(kind: Recurrent, settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, time) or (n, channels, time), outputs (n, outputs)."""
    return _Network(kind, settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, kind: Recurrent, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.steps = Steps(inputs, settings.embedding if inputs.kind == "tokens" else None)
        width, found = self.steps.width, settings.hidden * (1 + settings.bidirectional)
        self.forth, self.back = nn.ModuleList(), nn.ModuleList()
        for _ in range(settings.layers):
            self.forth.append(kind(width, settings.hidden, batch_first=True))
            if settings.bidirectional:
                self.back.append(kind(width, settings.hidden, batch_first=True))
            width = found
        self.dropout = nn.Dropout(settings.dropout)
        self.head = nn.Linear(found, outputs)
        self._mean = settings.reads == "mean"

    def forward(self, inputs: Tensor) -> Tensor:
        features, there = self.steps(inputs)
        lengths = there.sum(dim=1)
        for number, forth in enumerate(self.forth):
            directions = [forth(features)[0]]
            if len(self.back):
                turned = self.back[number](_turned(features, lengths))[0]
                directions.append(_turned(turned, lengths))
            features = self.dropout(torch.cat(directions, dim=2))
        read = mean_there(features, there) if self._mean else self._last(features, lengths)
        outputs: Tensor = self.head(read)
        return outputs

    def _last(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Where each direction ends: the last step there, and the first."""
        end = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, features.shape[2])
        last = features.gather(1, end).squeeze(1)
        if not len(self.back):
            return last
        half = features.shape[2] // 2
        return torch.cat([last[:, :half], features[:, 0, half:]], dim=1)


def _turned(features: Tensor, lengths: Tensor) -> Tensor:
    """Each record's steps in the other order, and its padding where it was; twice is as before."""
    place = torch.arange(features.shape[1], device=features.device).unsqueeze(0)
    other = lengths.unsqueeze(1) - 1 - place
    order = torch.where(other >= 0, other, place).unsqueeze(2)
    return features.gather(1, order.expand_as(features))


_INPUTS: tuple[Literal["signal", "tokens"], ...] = ("signal", "tokens")

RNN = Family("rnn", Settings, partial(build, nn.RNN), inputs=_INPUTS)
LSTM = Family("lstm", Settings, partial(build, nn.LSTM), inputs=_INPUTS)
GRU = Family("gru", Settings, partial(build, nn.GRU), inputs=_INPUTS)
