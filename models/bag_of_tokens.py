"""The mean of a record's tokens' embeddings: what a text says, whatever the order of its words."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.steps import Steps, mean_there
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        width: Of a token's embedding.
        hidden: Width of the layer before the output; 0 for none.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 64
    hidden: Annotated[int, Field(ge=0, le=65536)] = 0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, time), outputs (n, outputs)."""
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.steps = Steps(inputs, width)
        layers = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        self.head = nn.Sequential(*layers, nn.Linear(hidden or width, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(mean_there(*self.steps(inputs)))
        return outputs


FAMILY = Family("bag_of_tokens", Settings, build, inputs=("tokens",))
