"""A temporal convolutional network: dilated convolutions over steps (Bai et al. 2018).

Both directions are seen, for a record is judged as a whole. Each step is normalised by itself, so
that padding changes nothing.
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
        width: Channels of every layer.
        blocks: Residual blocks; block b's two convolutions look 2**b steps apart.
        kernel: Steps that a convolution sees; an even number counts as the next odd one.
        dropout: Share of a block's channels that is dropped in training.
        pooling: How steps become an answer.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 64
    blocks: Annotated[int, Field(ge=1, le=16)] = 4
    kernel: Annotated[int, Field(ge=3, le=63)] = 5
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    pooling: Pooling = "mean"


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, time) or (n, channels, time), outputs (n, outputs)."""
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.steps = Steps(inputs, settings.width)
        self.blocks = nn.ModuleList(_Block(settings, 2**b) for b in range(settings.blocks))
        self.pool = Pool(settings.pooling, settings.width, self.steps.length)
        self.head = nn.Linear(self.pool.width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features, there = self.steps(inputs)
        for block in self.blocks:
            features = block(features, there)
        outputs: Tensor = self.head(self.pool(features, there))
        return outputs


class _Block(nn.Module):
    def __init__(self, settings: Settings, dilation: int) -> None:
        super().__init__()
        width, around = settings.width, dilation * (settings.kernel // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.convs = nn.ModuleList(
            nn.Conv1d(width, width, settings.kernel | 1, padding=around, dilation=dilation)
            for _ in range(2)
        )
        self.act, self.dropout = nn.ReLU(), nn.Dropout(settings.dropout)

    def forward(self, features: Tensor, there: Tensor) -> Tensor:
        found, kept = features, there.unsqueeze(2)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            seen = self.act(norm(found)) * kept
            found = self.dropout(conv(seen.transpose(1, 2)).transpose(1, 2))
        return (features + found) * kept


FAMILY = Family("temporal_cnn", Settings, build, inputs=("signal", "tokens"))
