"""Embeddings: on the left of each product is the place of one row; nothing wide is made of it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fedward.privacy.gradients.rule import Watched
from fedward.privacy.gradients.uses import Product, Use


class EmbeddingRule(Watched):
    """nn.Embedding over any positions."""

    kinds = (nn.Embedding,)

    def fault(self, layer: nn.Module) -> str | None:
        """Why this table cannot be trained privately, or None."""
        if getattr(layer, "max_norm", None) is not None:
            return "max_norm changes rows that records look up, without noise"
        if getattr(layer, "scale_grad_by_freq", False):
            return "scale_grad_by_freq divides by counts over all patients"
        return None

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """Of the table."""
        assert isinstance(layer, nn.Embedding)  # noqa: S101 - the kind that it is for
        places = inputs.reshape(len(inputs), 1, -1)
        rows = gradient.reshape(len(inputs), 1, -1, layer.embedding_dim)
        if layer.padding_idx is not None:
            rows = rows.masked_fill((places == layer.padding_idx).unsqueeze(3), 0)
        yield layer.weight, Product(places, rows, layer.weight.shape)
