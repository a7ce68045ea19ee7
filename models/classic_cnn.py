"""AlexNet, VGG and Inception: the older convolutional networks, with group normalisation.

They are there to be compared with. Their convolutions are the papers'; local response and batch
normalisation are group normalisation, and Inception has no side outputs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs, refuse_small
from fedward.models.spatial import group_norm
from fedward.study.frozen import Frozen

Width = Annotated[int, Field(ge=8, le=256, multiple_of=8)]
_LEAST = 16


class WideSettings(Frozen):
    """Size of the network.

    Attributes:
        width: Channels of the first convolution; the others are multiples as in the paper.
        hidden: Width of the two layers before the output.
        dropout: Share of their inputs that is dropped in training.
    """

    width: Width = 64
    hidden: Annotated[int, Field(ge=1, le=65536)] = 4096
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5


class VGGSettings(WideSettings):
    """Size of the network.

    Attributes:
        layers: 11, 13 or 16, of which 3 are no convolutions.
        width: Channels of the first convolution; the others are multiples as in the paper.
        hidden: Width of the two layers before the output.
        dropout: Share of their inputs that is dropped in training.
    """

    layers: Literal[11, 13, 16] = 11


class InceptionSettings(Frozen):
    """Size of the network.

    Attributes:
        width: Channels of the first convolution; the others are multiples as in the paper.
        dropout: Share of the features before the output that is dropped in training.
    """

    width: Width = 64
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4


def build_alexnet(settings: WideSettings, inputs: Inputs, outputs: int) -> nn.Module:
    """Krizhevsky 2014, one column. Inputs (n, channels, height, width), outputs (n, outputs).

    Raises:
        StudyError: A side of the images is below 16 pixels.
    """
    refuse_small(inputs, _LEAST)
    w = settings.width
    layers = [
        *_conv(inputs.shape[0], w, 11, stride=4, padding=2),
        _halved(),
        *_conv(w, 3 * w, 5),
        _halved(),
        *_conv(3 * w, 6 * w, 3),
        *_conv(6 * w, 4 * w, 3),
        *_conv(4 * w, 4 * w, 3),
        _halved(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), *_head(settings, 4 * w * 36, outputs))


_VGG = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


def build_vgg(settings: VGGSettings, inputs: Inputs, outputs: int) -> nn.Module:
    """Simonyan and Zisserman 2015. Inputs (n, channels, height, width), outputs (n, outputs).

    Raises:
        StudyError: A side of the images is below 16 pixels.
    """
    refuse_small(inputs, _LEAST)
    layers: list[nn.Module] = []
    before = inputs.shape[0]
    for stage, convolutions in enumerate(_VGG[settings.layers]):
        channels = settings.width * min(2**stage, 8)
        for _ in range(convolutions):
            layers += _conv(before, channels, 3)
            before = channels
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(7), *_head(settings, before * 49, outputs))


# Channels, of 64, of each module's four branches: 1x1; 3x3 and before it; 5x5 and before it; pool.
_MODULES = (
    (64, 96, 128, 16, 32, 32),
    (128, 128, 192, 32, 96, 64),
    None,
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
    None,
    (256, 160, 320, 32, 128, 128),
    (384, 192, 384, 48, 128, 128),
)


def build_inception(settings: InceptionSettings, inputs: Inputs, outputs: int) -> nn.Module:
    """Szegedy et al. 2015. Inputs (n, channels, height, width), outputs (n, outputs).

    Raises:
        StudyError: A side of the images is below 16 pixels.
    """
    refuse_small(inputs, _LEAST)
    w = settings.width
    layers = [
        *_conv(inputs.shape[0], w, 7, stride=2, padding=3),
        _halved(),
        *_conv(w, w, 1),
        *_conv(w, 3 * w, 3),
        _halved(),
    ]
    before = 3 * w
    for module in _MODULES:
        if module is None:
            layers.append(_halved())
            continue
        made = _Branches(before, [max(1, channels * w // 64) for channels in module])
        layers.append(made)
        before = made.channels
    dropout = nn.Dropout(settings.dropout)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), dropout, nn.Linear(before, outputs)]
    return nn.Sequential(*layers, *head)


class _Branches(nn.Module):
    """An inception module: four ways beside each other, and what they find together."""

    def __init__(self, before: int, sizes: list[int]) -> None:
        super().__init__()
        one, before_three, three, before_five, five, pooled = sizes
        self.ways = nn.ModuleList(
            [
                nn.Sequential(*_conv(before, one, 1)),
                nn.Sequential(*_conv(before, before_three, 1), *_conv(before_three, three, 3)),
                nn.Sequential(*_conv(before, before_five, 1), *_conv(before_five, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *_conv(before, pooled, 1)),
            ]
        )
        self.channels = one + three + five + pooled

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.cat([way(inputs) for way in self.ways], dim=1)


def _conv(
    before: int, channels: int, size: int, *, stride: int = 1, padding: int | None = None
) -> list[nn.Module]:
    around = size // 2 if padding is None else padding
    conv = nn.Conv2d(before, channels, size, stride=stride, padding=around)
    return [conv, group_norm(channels), nn.ReLU()]


def _halved() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, padding=1)


def _head(settings: WideSettings, features: int, outputs: int) -> list[nn.Module]:
    hidden, dropout = settings.hidden, settings.dropout
    return [
        nn.Flatten(),
        *(nn.Dropout(dropout), nn.Linear(features, hidden), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU()),
        nn.Linear(hidden, outputs),
    ]


ALEXNET = Family("alexnet", WideSettings, build_alexnet, inputs=("image",))
VGG = Family("vgg", VGGSettings, build_vgg, inputs=("image",))
INCEPTION = Family("inception", InceptionSettings, build_inception, inputs=("image",))
