"""Layers that are the same but for the number of dimensions of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn


class Spatial(NamedTuple):
    """Convolution and pooling over so many dimensions."""

    conv: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]
    max_pool: type[nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d]
    mean: type[nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d]


SPATIAL = {
    1: Spatial(nn.Conv1d, nn.MaxPool1d, nn.AdaptiveAvgPool1d),
    2: Spatial(nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d),
    3: Spatial(nn.Conv3d, nn.MaxPool3d, nn.AdaptiveAvgPool3d),
}


def padding_to(size: Sequence[int], multiple: int) -> list[int]:
    """For `functional.pad`: what lengthens each side, at its end, to a multiple of a length."""
    return [entry for side in reversed(size) for entry in (0, -side % multiple)]


def group_norm(channels: int, groups: int = 8) -> nn.GroupNorm:
    """Group normalisation, with as many of the groups as divide the channels.

    Two channels share a group at least: of one pixel of one channel nothing would be left.
    """
    most = max(1, min(groups, channels // 2))
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)
