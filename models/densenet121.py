"""DenseNet121 (Huang et al. 2017) as MONAI has it, with group normalisation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs, refuse_small
from fedward.models.monai_nets import monai_nets
from fedward.study.frozen import Frozen

_LEAST = 32  # pixels, of which five halvings leave one


class Settings(Frozen):
    """Size of the network, which is that of DenseNet121 if nothing is said.

    Attributes:
        features: Channels of the first convolution; a multiple of 32.
        growth: Channels that each layer adds; a multiple of 32.
        blocks: Layers in each of the four blocks.
        dropout: Share of the features of each layer that is dropped in training.
    """

    features: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 64
    growth: Annotated[int, Field(ge=32, le=1024, multiple_of=32)] = 32
    blocks: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], ...], Field(min_length=4, max_length=4)
    ] = (6, 12, 24, 16)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, *size), outputs (n, outputs).

    Raises:
        StudyError: A side of the images is below 32 pixels.
        OptionError: MONAI is not installed.
    """
    refuse_small(inputs, _LEAST)
    network: nn.Module = monai_nets().DenseNet121(
        spatial_dims=len(inputs.shape) - 1,
        in_channels=inputs.shape[0],
        out_channels=outputs,
        init_features=settings.features,
        growth_rate=settings.growth,
        block_config=settings.blocks,
        norm=("group", {"num_groups": 4}),  # what three halvings leave of multiples of 32
        act=("relu", {"inplace": False}),
        dropout_prob=settings.dropout,
    )
    return network


FAMILY = Family("densenet121", Settings, build, inputs=("image", "volume"), extra="imaging")
