"""An autoencoder: a record's numbers through few, and back.

Outputs have one column more than a record has numbers: the price of the code, here 0.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        hidden: Widths of the layers between a record and its code; the way back has the same.
        code: Numbers that a record becomes.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (64,)
    code: Annotated[int, Field(ge=1, le=65536)] = 8


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, *shape), outputs (n, numbers + 1)."""
    del outputs
    return _Network(settings, math.prod(inputs.shape))


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class _Network(nn.Module):
    def __init__(self, settings: Settings, numbers: int) -> None:
        super().__init__()
        widths = [numbers, *settings.hidden, settings.code]
        self.encoder, self.decoder = perceptron(widths), perceptron(widths[::-1])

    def code(self, inputs: Tensor) -> Tensor:
        """What records become: inputs (n, *shape), codes (n, code)."""
        found: Tensor = self.encoder(inputs.flatten(1))
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        found = self.decoder(self.code(inputs))
        return torch.cat([found, found.new_zeros(found.shape[0], 1)], dim=1)


FAMILY = Family(
    "autoencoder",
    Settings,
    build,
    inputs=("features", "image", "volume", "signal"),
    tasks=("reconstruction",),
)
