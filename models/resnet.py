"""Residual networks of 18 or 34 layers (He et al. 2016), with group normalisation.

MONAI's keep batch normalisation inside their blocks, which mixes patients: these do not.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.spatial import SPATIAL, Spatial, group_norm
from fedward.study.frozen import Frozen

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class Settings(Frozen):
    """Size of the network.

    Attributes:
        layers: 18 or 34.
        width: Channels of the first stage; each of the next three doubles them.
        stem: `large`: a 7 x 7 convolution and pooling, both by 2, for images of 100 pixels and
            more; `small`: a 3 x 3 convolution, for small images.
    """

    layers: Literal[18, 34] = 18
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    stem: Literal["large", "small"] = "large"


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, *size), outputs (n, outputs)."""
    layer, width = SPATIAL[len(inputs.shape) - 1], settings.width
    layers = _stem(settings, layer, inputs.shape[0])
    before = width
    for stage, blocks in enumerate(_BLOCKS[settings.layers]):
        channels = width * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers.append(_Block(layer, before, channels, stride))
            before = channels
    return nn.Sequential(*layers, layer.mean(1), nn.Flatten(), nn.Linear(before, outputs))


def _stem(settings: Settings, layer: Spatial, channels: int) -> list[nn.Module]:
    width = settings.width
    norm = [group_norm(width), nn.ReLU()]
    if settings.stem == "small":
        return [layer.conv(channels, width, 3, padding=1, bias=False), *norm]
    first = layer.conv(channels, width, 7, stride=2, padding=3, bias=False)
    return [first, *norm, layer.max_pool(3, stride=2, padding=1)]


class _Block(nn.Module):
    """Two convolutions beside what they are added to."""

    def __init__(self, layer: Spatial, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            layer.conv(before, channels, 3, stride=stride, padding=1, bias=False),
            group_norm(channels),
            nn.ReLU(),
            layer.conv(channels, channels, 3, padding=1, bias=False),
            group_norm(channels),
        )
        self.beside: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            smaller = layer.conv(before, channels, 1, stride=stride, bias=False)
            self.beside = nn.Sequential(smaller, group_norm(channels))
        self.last = nn.ReLU()

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.last(self.body(inputs) + self.beside(inputs))
        return found


FAMILY = Family("resnet", Settings, build, inputs=("image", "volume"))
