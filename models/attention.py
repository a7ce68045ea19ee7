"""Transformer blocks (Vaswani et al. 2017; normalised first, Xiong et al. 2020).

Linear layers and PyTorch's own attention function, so that each record's gradient can be kept
apart: `nn.MultiheadAttention` holds its weights where no hook sees them.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from fedward.study.errors import StudyError
from fedward.study.frozen import Frozen


class EncoderSettings(Frozen):
    """Size of an encoder.

    Attributes:
        width: Features of each step; a multiple of `heads`.
        blocks: How many.
        heads: Of the attention.
        dropout: Share of each block's additions that is dropped in training.
    """

    width: Annotated[int, Field(ge=1, le=4096)] = 64
    blocks: Annotated[int, Field(ge=1, le=64)] = 2
    heads: Annotated[int, Field(ge=1, le=64)] = 4
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Encoder(nn.Module):
    """Steps with learnt places, and blocks over them."""

    def __init__(self, settings: EncoderSettings, length: int) -> None:
        """Make one.

        Args:
            settings: Its size.
            length: Steps of a record.
        """
        super().__init__()
        self.places = nn.Embedding(length, settings.width)
        self.blocks = nn.ModuleList(_Block(settings) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, features: Tensor, there: Tensor) -> Tensor:
        """Features that know of each other, shape (n, time, width).

        Args:
            features: Shape (n, time, width).
            there: Which steps are there, shape (n, time); the others are not looked at.
        """
        n, time, _ = features.shape
        features = features + self.places(torch.arange(time, device=there.device).expand(n, time))
        seen = there.clone()
        seen[:, 0] = True  # a record of no steps would look at nothing: 0 / 0
        for block in self.blocks:
            features = block(features, seen[:, None, None, :])
        found: Tensor = self.norm(features)
        return found


class _Block(nn.Module):
    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        width = settings.width
        self._heads = settings.heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, features: Tensor, seen: Tensor) -> Tensor:
        known = self.first(features)
        query, key, value = (self._apart(f(known)) for f in (self.query, self.key, self.value))
        looked = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        features = features + self.dropout(self.out(looked.transpose(1, 2).flatten(2)))
        added: Tensor = features + self.dropout(self.mlp(self.second(features)))
        return added

    def _apart(self, features: Tensor) -> Tensor:
        """Shape (n, heads, time, width / heads)."""
        apart: Tensor = features.unflatten(2, (self._heads, -1))
        return apart.transpose(1, 2)


def refuse_uneven(settings: EncoderSettings) -> None:
    """Accept a width that the heads can share, by returning.

    Raises:
        StudyError: It is no multiple of theirs.
    """
    if settings.width % settings.heads:
        raise StudyError(
            "model.width",
            given=str(settings.width),
            allowed=f"a multiple of {settings.heads} heads",
        )
