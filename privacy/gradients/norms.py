"""Norm layers: their parameters are small, and so are the gradients for each record."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

from fedward.privacy.gradients.rule import Rule, Watched
from fedward.privacy.gradients.tape import Tape
from fedward.privacy.gradients.uses import Formed, Use
from fedward.privacy.privacy_errors import NotPerRecord

_INSTANCES = {nn.InstanceNorm1d: 3, nn.InstanceNorm2d: 4, nn.InstanceNorm3d: 5}


class ChannelNormRule(Rule):
    """Group norms, and instance norms, which are group norms with a group for each channel."""

    kinds = (nn.GroupNorm, *_INSTANCES)

    def forward(self, layer: nn.Module, tape: Tape, input: Tensor) -> Tensor:
        """The layer's output, by the kernel that also tells mean and deviation."""
        assert isinstance(layer, nn.GroupNorm | _InstanceNorm)  # noqa: S101
        weight: Tensor | None = layer.weight
        bias: Tensor | None = layer.bias
        if any(isinstance(layer, kind) and input.ndim != n for kind, n in _INSTANCES.items()):
            raise NotPerRecord(
                "an instance norm does not see one entry for each record",
                todo="choose a model whose every layer keeps the records in its first dimension",
            )
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else input.shape[1]
        keys = tape.await_uses((weight, bias))

        def write(each: Iterable[Tensor | None]) -> None:
            pairs = zip((weight, bias), each, strict=True)
            tape.write(keys, [(p, Formed(e)) for p, e in pairs if p is not None and e is not None])

        with torch.autocast(input.device.type, enabled=False):
            whole = input.to(torch.float32 if weight is None else weight.dtype).contiguous()
            # Autograd calls on what follows from a tensor that has a gradient; the input may not.
            called = whole.new_empty(0, requires_grad=bool(keys))
            bare = [None if p is None else p.detach() for p in (weight, bias)]
            output: Tensor = _ChannelNorm.apply(  # type: ignore[no-untyped-call]
                whole, called, *bare, groups, layer.eps, write
            )
        return output


class _ChannelNorm(torch.autograd.Function):
    """A group norm whose way back has each record's gradients of weight and bias as well.

    PyTorch's own kernel finds them all at once, where all records' channels are the channels of one
    record.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        inputs: Tensor,
        _: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
        write: Callable[[Iterable[Tensor | None]], None],
    ) -> Tensor:
        records, channels, *sizes = inputs.shape
        size = (records, channels, math.prod(sizes), groups)
        output, mean, rstd = torch.native_group_norm(inputs, weight, bias, *size, eps)
        ctx.save_for_backward(inputs, weight, mean, rstd)
        ctx.size, ctx.write = size, write
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        inputs, weight, mean, rstd = ctx.saved_tensors
        records, channels, places, groups = ctx.size
        one = (1, records * channels, places)
        through, watched = ctx.needs_input_grad[:2]
        scale = inputs.new_ones(records * channels) if weight is None else weight.repeat(records)
        of_inputs, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            gradient.contiguous().view(one), inputs.view(one), mean.view(1, -1), rstd.view(1, -1),
            scale, *one, records * groups, [through, watched, watched],
        )  # fmt: skip
        if watched:
            ctx.write(each.view(records, channels) for each in (of_weight, of_bias))
        return (of_inputs.view(inputs.shape) if through else None, *[None] * 6)


class RowNormRule(Watched):
    """Layer norms and root-mean-square norms, over any positions."""

    kinds = (nn.LayerNorm, nn.RMSNorm)

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """Of weight and bias, each where it is there."""
        assert isinstance(layer, nn.LayerNorm | nn.RMSNorm)  # noqa: S101 - its kinds
        shape = list(layer.normalized_shape)
        places = tuple(range(1, gradient.ndim - len(shape)))
        if isinstance(layer, nn.LayerNorm):
            normal = functional.layer_norm(inputs, shape, eps=layer.eps)
        else:
            normal = functional.rms_norm(inputs, shape, eps=layer.eps)
        scaled = normal.mul_(gradient)
        yield layer.weight, Formed(scaled.sum(dim=places) if places else scaled)
        if isinstance(layer, nn.LayerNorm) and layer.bias is not None:
            yield layer.bias, Formed(gradient.sum(dim=places) if places else gradient)
