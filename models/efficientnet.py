"""EfficientNet (Tan and Le 2019) as MONAI has it, with group normalisation."""

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

_HALVED = 32  # five times
# B0's stages: repeats, kernel, stride, expansion, channels before and after (table 1).
_STAGES = [
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
]


class Settings(Frozen):
    """Size of the network, which is that of B0 if nothing is said.

    Attributes:
        width: Channels, in units of B0's.
        depth: Layers, in units of B0's.
        dropout: Share of the features before the output that is dropped in training.
        skip: Probability with which the last block is left out for a record in training; earlier
            ones are in proportion.
    """

    width: Annotated[float, Field(gt=0, le=4)] = 1.0
    depth: Annotated[float, Field(gt=0, le=4)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    skip: Annotated[float, Field(ge=0, lt=1)] = 0.2


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, channels, *size), outputs (n, outputs).

    Raises:
        OptionError: MONAI is not installed.
    """
    network = monai_nets().EfficientNet(
        blocks_args_str=list(_STAGES),
        spatial_dims=len(inputs.shape) - 1,
        in_channels=inputs.shape[0],
        num_classes=outputs,
        width_coefficient=settings.width,
        depth_coefficient=settings.depth,
        dropout_rate=settings.dropout,
        image_size=_HALVED,
        norm=("group", {"num_groups": 8}),
        drop_connect_rate=settings.skip,
    )
    network.set_swish(memory_efficient=False)
    more = padding_to(inputs.shape[1:], _HALVED)
    return nn.Sequential(_Padded(more), network)


class _Padded(nn.Module):
    """Images with zeros beside them, so that every halving leaves whole pixels."""

    def __init__(self, more: list[int]) -> None:
        super().__init__()
        self._more = more

    def forward(self, inputs: Tensor) -> Tensor:
        return functional.pad(inputs, self._more)


FAMILY = Family("efficientnet", Settings, build, inputs=("image", "volume"), extra="imaging")
