"""A vision transformer (Dosovitskiy et al. 2021), whose answer is the mean over patches.

MONAI's has parameters outside of layers, which no hook sees: they would have no gradient for each
patient.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.models.attention import Encoder, EncoderSettings, refuse_uneven
from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.spatial import SPATIAL, padding_to


class Settings(EncoderSettings):
    """Size of the network.

    Attributes:
        patch: Side of a patch, in pixels; images are padded to whole patches.
        width: Features of each patch; a multiple of `heads`.
        blocks: How many.
        heads: Of the attention.
        dropout: Share of each block's additions that is dropped in training.
    """

    patch: Annotated[int, Field(ge=1, le=256)] = 8


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, *size), outputs (n, outputs).

    Raises:
        StudyError: The width is no multiple of the heads.
    """
    refuse_uneven(settings)
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        channels, *size = inputs.shape
        patch, width = settings.patch, settings.width
        self.patches = SPATIAL[len(size)].conv(channels, width, patch, stride=patch)
        self.encoder = Encoder(settings, math.prod(-(-side // patch) for side in size))
        self.head = nn.Linear(width, outputs)
        self._more = padding_to(size, patch)

    def forward(self, inputs: Tensor) -> Tensor:
        features = self.patches(functional.pad(inputs, self._more)).flatten(2).transpose(1, 2)
        there = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        outputs: Tensor = self.head(self.encoder(features, there).mean(dim=1))
        return outputs


FAMILY = Family("vit", Settings, build, inputs=("image", "volume"))
