"""One linear layer: logistic regression for classes, and its like for other tasks."""

from __future__ import annotations

import math

from torch import nn

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.study.frozen import Frozen


class Settings(Frozen):
    """None."""


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """All numbers of a record, weighted. Inputs (n, *shape), outputs (n, outputs)."""
    del settings
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(inputs.shape), outputs))


FAMILY = Family("linear", Settings, build, inputs=("features", "image", "volume", "signal"))
