"""A variational autoencoder (Kingma and Welling 2014).

With unit variance of a record's numbers the negative evidence bound is half the squared error and
the divergence of the code; both are told for each number and twice, so that the first is the mean
squared error: the last column of the outputs is 2 weight KL / numbers.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from fedward.models import autoencoder
from fedward.models.family import Family
from fedward.models.inputs import Inputs


class Settings(autoencoder.Settings):
    """Size of the network.

    Attributes:
        hidden: Widths of the layers between a record and its code; the way back has the same.
        code: Numbers that a record becomes.
        weight: Of the divergence (beta, Higgins et al. 2017).
    """

    weight: Annotated[float, Field(ge=0)] = 1.0


def build(settings: Settings, inputs: Inputs, outputs: int) -> nn.Module:
    """Inputs (n, *shape), outputs (n, numbers + 1)."""
    del outputs
    return _Network(settings, math.prod(inputs.shape))


class _Network(nn.Module):
    def __init__(self, settings: Settings, numbers: int) -> None:
        super().__init__()
        widths = [numbers, *settings.hidden, settings.code]
        self.encoder = autoencoder.perceptron([*widths[:-1], 2 * settings.code])
        self.draw = _Draw()
        self.decoder = autoencoder.perceptron(widths[::-1])
        self._share = 2 * settings.weight / numbers

    def code(self, inputs: Tensor) -> Tensor:
        """The mean of what records may become: inputs (n, *shape), codes (n, code)."""
        found: Tensor = self.encoder(inputs.flatten(1)).chunk(2, dim=1)[0]
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        mean, log_variance = self.encoder(inputs.flatten(1)).chunk(2, dim=1)
        found = self.decoder(self.draw(mean, log_variance))
        each = mean.square() + log_variance.exp() - 1 - log_variance
        return torch.cat([found, self._share * each.sum(dim=1, keepdim=True) / 2], dim=1)


class _Draw(nn.Module):
    """A code from its distribution in training, and its mean otherwise."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        if not self.training:
            return mean
        return mean + (log_variance / 2).exp() * torch.randn_like(mean)


FAMILY = Family("vae", Settings, build, inputs=autoencoder.FAMILY.inputs, tasks=("reconstruction",))
