"""nn.MultiheadAttention: linear layers around a product that has no parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.privacy.gradients.linear import linear_uses
from fedward.privacy.gradients.rule import Rule
from fedward.privacy.gradients.seen import Seen
from fedward.privacy.gradients.tape import Tape
from fedward.privacy.gradients.uses import Use
from fedward.privacy.privacy_errors import NotPerRecord


class AttentionRule(Rule):
    """nn.MultiheadAttention, over itself or across, with masks."""

    kinds = (nn.MultiheadAttention,)

    def fault(self, layer: nn.Module) -> str | None:
        """Why this layer cannot be trained privately, or None."""
        assert isinstance(layer, nn.MultiheadAttention)  # noqa: S101 - the kind that it is for
        if layer.bias_k is not None or layer.bias_v is not None:
            return "no rule for add_bias_kv"
        if layer.add_zero_attn:
            return "no rule for add_zero_attn"
        return None

    def forward(  # type: ignore[override]
        self,
        layer: nn.MultiheadAttention,
        tape: Tape,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs and, where they are wanted, weights of attention: as the layer's own."""
        if query.ndim != 3:
            raise NotPerRecord(
                "attention does not see one entry for each record",
                todo="choose a model whose attention keeps the records in a dimension of its own",
            )
        inputs = (query, key, value)
        if not layer.batch_first:
            alone = {id(t): t.transpose(0, 1) for t in inputs}
            inputs = (alone[id(query)], alone[id(key)], alone[id(value)])
        projected = _projected(layer, tape, *inputs)
        heads = [_apart(p, layer.num_heads) for p in projected]
        mask = _mask(heads[0], heads[1], attn_mask, key_padding_mask)
        dropout = layer.dropout if layer.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = heads[0] @ heads[1].mT / heads[0].shape[-1] ** 0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = functional.dropout(weights, dropout)
            mixed = weights @ heads[2]
            weights = weights.mean(dim=1) if average_attn_weights else weights
        else:
            mixed = functional.scaled_dot_product_attention(
                heads[0], heads[1], heads[2], mask, dropout, is_causal and mask is None
            )
        out = layer.out_proj
        whole = _linear(tape, mixed.transpose(1, 2).flatten(2), out.weight, out.bias, None)
        return (whole if layer.batch_first else whole.transpose(0, 1)), weights


class _Rows(NamedTuple):
    """Some rows of a matrix and its bias.

    Attributes:
        first: The first of them.
        number: How many.
        total: Of all together.
    """

    first: int
    number: int
    total: int


def _projected(
    layer: nn.MultiheadAttention, tape: Tape, query: Tensor, key: Tensor, value: Tensor
) -> list[Tensor]:
    """Queries, keys and values, each shape (n, positions, embed_dim)."""
    size, bias = layer.embed_dim, layer.in_proj_bias
    if not layer._qkv_same_embed_dim:
        weights = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight)
        return [
            _linear(tape, each, weight, bias, _Rows(number * size, size, 3 * size), whole=True)
            for number, (each, weight) in enumerate(zip((query, key, value), weights, strict=True))
        ]
    if query is key and key is value:
        whole = _linear(tape, query, layer.in_proj_weight, bias, None)
        return list(whole.split(size, dim=-1))
    return [
        _linear(tape, each, layer.in_proj_weight, bias, _Rows(number * size, size, 3 * size))
        for number, each in enumerate((query, key, value))
    ]


def _linear(
    tape: Tape,
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    rows: _Rows | None,
    *,
    whole: bool = False,
) -> Tensor:
    """A linear layer by some rows of its parameters, watched.

    Args:
        tape: Where its uses are written.
        inputs: Shape (n, positions, into).
        weight: Shape (out, into).
        bias: Shape (out,), or None.
        rows: Which ones; None for all.
        whole: The rows are the bias' only, and the matrix is used as it is.
    """
    part = slice(None) if rows is None else slice(rows.first, rows.first + rows.number)
    bare = weight.detach() if whole else weight.detach()[part]
    output = functional.linear(inputs, bare, None if bias is None else bias.detach()[part])
    seen = Seen(inputs)

    def uses(gradient: Tensor) -> Iterator[tuple[Tensor, Use]]:
        (exact,) = (each.to(weight.dtype) for each in seen.again())
        gradient = gradient.to(weight.dtype)
        wide = gradient
        if rows is not None:  # zeros for the rows that had no part
            behind = rows.total - rows.first - rows.number
            wide = functional.pad(gradient, (rows.first, behind))
        yield from linear_uses(weight, None, exact, gradient if whole else wide)
        if bias is not None:
            yield from linear_uses(None, bias, exact, wide)

    return tape.watch(output, (weight, bias), uses)


def _apart(projected: Tensor, heads: int) -> Tensor:
    """By heads, shape (n, heads, positions, features)."""
    apart: Tensor = projected.unflatten(-1, (heads, -1))
    return apart.transpose(1, 2)


def _mask(
    query: Tensor, key: Tensor, attention: Tensor | None, padding: Tensor | None
) -> Tensor | None:
    """What is added to the scores; True in a mask means that a position is not seen."""
    found: Tensor | None = None
    for mask in (attention, padding):
        if mask is None:
            continue
        if mask is padding:
            mask = mask.view(len(key), 1, 1, key.shape[2])
        elif mask.ndim == 3:
            mask = mask.view(len(query), -1, query.shape[2], key.shape[2])
        if mask.dtype == torch.bool:
            mask = query.new_zeros(mask.shape).masked_fill(mask, -torch.inf)
        found = mask.to(query) if found is None else found + mask.to(query)
    return found
