"""A record's tokens' embeddings pooled: what a text says, whatever the order of its words.

Mean and maximum are those of Shen et al. 2018, "Baseline needs more love".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.pooling import Pool, Pooling
from fedward.models.steps import Steps
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """Size of the network.

    Attributes:
        width: Of a token's embedding.
        hidden: Width of the layer before the output; 0 for none.
        pooling: How embeddings become one.
        dropout: Share of the pooled embedding's numbers that is dropped in training.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 64
    hidden: Annotated[int, Field(ge=0, le=65536)] = 0
    pooling: Pooling = "mean"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, time), outputs (n, outputs)."""
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        width, hidden = settings.width, settings.hidden
        self.steps = Steps(inputs, width)
        self.pool = Pool(settings.pooling, width, self.steps.length)
        self.dropout = nn.Dropout(settings.dropout)
        width = self.pool.width
        layers = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        self.head = nn.Sequential(*layers, nn.Linear(hidden or width, outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.dropout(self.pool(*self.steps(inputs))))
        return outputs


FAMILY = Family("bag_of_tokens", Settings, build, inputs=("tokens",))
