"""What an algorithm adds to the gradient of each local step.

It is added after clipping and noise, for it depends on no record but through what was noised.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Correction(Protocol):
    """A change of each step's gradient, before the optimizer takes the step."""

    def correct(self, model: nn.Module) -> None:
        """Change the gradients of the model's parameters in place."""


class NoCorrection:
    """The gradient as it is."""

    def correct(self, model: nn.Module) -> None:
        """Nothing is changed."""


class ProximalPull:
    """The gradient of mu/2 |w - a|^2: a pull towards an anchor a."""

    def __init__(self, mu: float, anchor: Sequence[Tensor]) -> None:
        """Take the pull's strength, and for each parameter of the model where it pulls to."""
        self._mu = mu
        self._anchor = anchor

    @torch.no_grad()
    def correct(self, model: nn.Module) -> None:
        """Add mu (w - a)."""
        for anchor, parameter in zip(self._anchor, model.parameters(), strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - anchor, alpha=self._mu)


class Shift:
    """The same addition to every gradient."""

    def __init__(self, addition: Sequence[Tensor]) -> None:
        """Take what is added, for each parameter of the model."""
        self._addition = addition

    @torch.no_grad()
    def correct(self, model: nn.Module) -> None:
        """Add it."""
        for addition, parameter in zip(self._addition, model.parameters(), strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(addition)


def weights_of(model: nn.Module) -> list[Tensor]:
    """A copy of each of the model's parameters, in their order."""
    return [parameter.detach().clone() for parameter in model.parameters()]
