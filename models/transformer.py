"""A transformer encoder, from scratch, over tokens or signals."""

from __future__ import annotations

from torch import Tensor, nn

from fedward.models.attention import Encoder, EncoderSettings, refuse_uneven
from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.pooling import Pool, Pooling
from fedward.models.steps import Steps


class Settings(EncoderSettings):
    """Size of the network.

    Attributes:
        pooling: How what the steps became makes an answer.
    """

    pooling: Pooling = "mean"


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """What a record's steps became, pooled. Inputs (n, time) or (n, channels, time).

    Raises:
        StudyError: The width is no multiple of the heads.
    """
    refuse_uneven(settings)
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: Settings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.steps = Steps(inputs, settings.width)
        self.encoder = Encoder(settings, self.steps.length)
        self.pool = Pool(settings.pooling, settings.width, self.steps.length)
        self.head = nn.Linear(self.pool.width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features, there = self.steps(inputs)
        outputs: Tensor = self.head(self.pool(self.encoder(features, there), there))
        return outputs


FAMILY = Family("transformer", Settings, build, inputs=("signal", "tokens"))
