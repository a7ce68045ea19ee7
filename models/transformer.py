"""A transformer encoder, from scratch, over tokens or signals."""

from __future__ import annotations

from torch import Tensor, nn

from fedward.models.attention import Encoder, EncoderSettings, refuse_uneven
from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.models.steps import Steps, mean_there


def build(settings: EncoderSettings, inputs: Inputs, outputs: int) -> nn.Module:
    """The mean of what a record's steps became. Inputs (n, time) or (n, channels, time).

    Raises:
        StudyError: The width is no multiple of the heads.
    """
    refuse_uneven(settings)
    return _Network(settings, inputs, outputs)


class _Network(nn.Module):
    def __init__(self, settings: EncoderSettings, inputs: Inputs, outputs: int) -> None:
        super().__init__()
        self.steps = Steps(inputs, settings.width)
        self.encoder = Encoder(settings, self.steps.length)
        self.head = nn.Linear(settings.width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        features, there = self.steps(inputs)
        outputs: Tensor = self.head(mean_there(self.encoder(features, there), there))
        return outputs


FAMILY = Family("transformer", EncoderSettings, build, inputs=("signal", "tokens"))
