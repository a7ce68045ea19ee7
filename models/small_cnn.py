"""A small convolutional network with group normalisation, fit for private training."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field
from torch import nn

from fedward.models.family import Family
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        channels: Channels of each block; a block halves height and width.
        hidden: Width of the layer before the output; 0 for none.
        groups: Groups of the normalisation; cut to what divides a block's channels.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1)] = (
        16,
        32,
        64,
    )
    hidden: Annotated[int, Field(ge=0, le=65536)] = 0
    groups: Annotated[int, Field(ge=1, le=4096)] = 8


def build(settings: Settings, shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Blocks of convolution, group norm, ReLU and pooling; then a mean over the picture.

    Inputs (n, channels, height, width), outputs (n, outputs).
    """
    layers: list[nn.Module] = []
    before = shape[0]
    for channels in settings.channels:
        layers += [
            nn.Conv2d(before, channels, kernel_size=3, padding=1),
            nn.GroupNorm(math.gcd(settings.groups, channels), channels),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        ]
        before = channels
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if settings.hidden:
        layers += [nn.Linear(before, settings.hidden), nn.ReLU()]
        before = settings.hidden
    return nn.Sequential(*layers, nn.Linear(before, outputs))


FAMILY = Family("small_cnn", Settings, build, inputs=("channels", "height", "width"))
