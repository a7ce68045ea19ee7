"""U-Net (Ronneberger et al. 2015) as MONAI has it: marks what is where."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.monai_nets import monai_nets
from fedward.models.spatial import padding_to
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        channels: Channels of each level, from the top; each is half as high and wide as the last.
        residual: Residual units in each level; 0 for a plain convolution.
    """

    channels: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=2)] = (
        16,
        32,
        64,
        128,
    )
    residual: Annotated[int, Field(ge=0, le=8)] = 0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, *size), outputs (n, outputs, *size).

    Normalised over one group, so that any number of channels will do.

    Raises:
        OptionError: MONAI is not installed.
    """
    levels = len(settings.channels) - 1
    network = monai_nets().UNet(
        spatial_dims=len(inputs.shape) - 1,
        in_channels=inputs.shape[0],
        out_channels=outputs,
        channels=settings.channels,
        strides=(2,) * levels,
        num_res_units=settings.residual,
        act=("relu", {"inplace": False}),
        norm=("group", {"num_groups": 1}),
    )
    return _AnySize(network, 2**levels)


class _AnySize(nn.Module):
    """Pads records with zeros to a multiple of a length, and cuts the answer to their size."""

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self._multiple = multiple

    def forward(self, inputs: Tensor) -> Tensor:
        size = inputs.shape[2:]
        more = padding_to(size, self._multiple)
        found: Tensor = self.network(functional.pad(inputs, more))
        for dimension, side in enumerate(size, start=2):
            found = found.narrow(dimension, 0, side)
        return found


FAMILY = Family(
    "unet", Settings, build, inputs=("image", "volume"), tasks=("segmentation",), extra="imaging"
)
