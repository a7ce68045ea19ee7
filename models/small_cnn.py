"""A small convolutional network with group normalisation, fit for private training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.study.frozen import Frozen

if TYPE_CHECKING:
    from torch import nn


class Settings(Frozen):
    """Size of the network.

    Attributes:
        channels: Channels of each block; every block but the last halves height and width.
        hidden: Width of the layer before the output; 0 for none.
        groups: Groups of the normalisation; cut to what divides a block's channels.
        dropout: Share of the features before the output that is dropped in training.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1)] = (
        16,
        32,
        64,
    )
    hidden: Annotated[int, Field(ge=0, le=65536)] = 0
    groups: Annotated[int, Field(ge=1, le=4096)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Blocks of convolution, group norm, ReLU and pooling; the last one's picture is kept whole.

    Where a finding is in the picture matters, so there is no mean over it before the output.
    Inputs (n, channels, height, width), outputs (n, outputs).
    """
    from torch import nn  # settings are read where nothing is built

    before, height, width = inputs.shape
    layers: list[nn.Module] = []
    for number, channels in enumerate(settings.channels):
        if number:
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            height, width = -(-height // 2), -(-width // 2)
        layers += [
            nn.Conv2d(before, channels, kernel_size=3, padding=1),
            nn.GroupNorm(math.gcd(settings.groups, channels), channels),
            nn.ReLU(),
        ]
        before = channels
    features = before * height * width
    layers.append(nn.Flatten())
    if settings.hidden:
        layers += [nn.Linear(features, settings.hidden), nn.ReLU()]
        features = settings.hidden
    if settings.dropout:
        layers.append(nn.Dropout(settings.dropout))
    return nn.Sequential(*layers, nn.Linear(features, outputs))


FAMILY = Family("small_cnn", Settings, build, inputs=("image",))
