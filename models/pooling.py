"""How the steps of a record become one answer's features."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from fedward.models.steps import mean_there

Pooling = Literal["mean", "max", "attention", "places"]
"""`mean` and `max` over the steps that are there; `attention`: a mean with weights that one linear
layer finds for each step (after Bahdanau et al. 2015, without a question); `places`: every step by
itself, so that it counts where in a record something is."""


class Pool(nn.Module):
    """Features of a record from those of its steps; `mean`, `max` and `places` have no weights."""

    def __init__(self, kind: Pooling, width: int, length: int) -> None:
        """Make one.

        Args:
            kind: How.
            width: Features of a step.
            length: Steps of a record.
        """
        super().__init__()
        self.width = width * length if kind == "places" else width
        self._kind = kind
        if kind == "attention":
            self.score = nn.Linear(width, 1)

    def forward(self, features: Tensor, there: Tensor) -> Tensor:
        """Shape (n, `self.width`); 0 for a record of no steps.

        Args:
            features: Shape (n, time, width).
            there: Which steps are there, shape (n, time); the others change nothing.
        """
        kept = there.unsqueeze(2)
        match self._kind:
            case "mean":
                return mean_there(features, there)
            case "max":
                return _max_there(features, kept)
            case "attention":
                return _weighted(features, self.score(features), kept)
            case "places":
                return (features * kept).flatten(1)


def _max_there(features: Tensor, kept: Tensor) -> Tensor:
    greatest = features.masked_fill(~kept, -torch.inf).amax(dim=1)
    return torch.where(kept.any(dim=1), greatest, torch.zeros_like(greatest))


def _weighted(features: Tensor, scores: Tensor, kept: Tensor) -> Tensor:
    least = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~kept, least).softmax(dim=1) * kept
    return (features * weights).sum(dim=1)
