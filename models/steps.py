"""Records that are steps in a row, tokens or samples of a signal, as features with a mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fedward.models.inputs import Inputs


class Steps(nn.Module):
    """Features of each step, and which steps are there.

    Tokens become embeddings; a signal's samples are its channels, or what one linear layer makes of
    them. Steps that are not there, after a record's end, have features 0.
    """

    def __init__(self, inputs: Inputs, width: int | None = None) -> None:
        """Prepare for such records.

        Args:
            inputs: Tokens or signals.
            width: Features of a step; a signal's own channels if None.
        """
        super().__init__()
        self._padded = inputs.padded
        self.first: nn.Module = nn.Identity()
        if inputs.kind == "tokens":
            self.width = width or 1
            self.length = inputs.shape[0]
            self.first = nn.Embedding(inputs.tokens, self.width)
        else:
            channels = inputs.shape[0] - inputs.padded
            self.width = width or channels
            self.length = inputs.shape[1]
            if width is not None:
                self.first = nn.Linear(channels, width)
        self._tokens = inputs.kind == "tokens"

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, time, width), and True for the steps that are there (n, time).

        Args:
            inputs: Token numbers, shape (n, time), or signals, shape (n, channels, time).
        """
        if self._tokens:
            there = inputs != 0
            features = self.first(inputs.long())
        else:
            there = torch.ones_like(inputs[:, 0], dtype=torch.bool)
            if self._padded:
                there = inputs[:, -1] > 0.5
                inputs = inputs[:, :-1]
            features = self.first(inputs.transpose(1, 2))
        return features * there.unsqueeze(2), there


def mean_there(features: Tensor, there: Tensor) -> Tensor:
    """Mean over the steps that are there, shape (n, width); 0 for a record of no steps."""
    kept = features * there.unsqueeze(2)
    return kept.sum(dim=1) / there.sum(dim=1, keepdim=True).clamp(min=1)
