"""Multi-layer perceptron; without hidden layers, logistic regression."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from fedward.models.family import Family
from fedward.models.inputs import Inputs
from fedward.study.frozen import Frozen

if TYPE_CHECKING:
    from torch import nn


class Settings(Frozen):
    """Attributes: hidden: widths of the hidden layers; none for a linear model."""

    hidden: tuple[Annotated[int, Field(ge=1, le=65536)], ...] = (32,)


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Linear layers with ReLU between them. Inputs (n, features), outputs (n, outputs)."""
    from torch import nn  # settings are read where nothing is built

    widths = [inputs.shape[0], *settings.hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


FAMILY = Family("mlp", Settings, build, inputs=("features",))
