"""Norm layers: their parameters are small, and so are the gradients for each record."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
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
        records, channels, *sizes = input.shape
        groups = layer.num_groups if isinstance(layer, nn.GroupNorm) else channels
        size = (records, channels, math.prod(sizes), groups)
        with torch.autocast(input.device.type, enabled=False):
            whole = input.to(torch.float32 if weight is None else weight.dtype).contiguous()
            output, mean, rstd = torch.native_group_norm(
                whole,
                None if weight is None else weight.detach(),
                None if bias is None else bias.detach(),
                *size,
                layer.eps,
            )
        seen = whole.detach()

        def uses(gradient: Tensor) -> Iterator[tuple[Tensor, Use]]:
            found = _of_channels(seen, gradient.contiguous(), mean, rstd, size)
            for parameter, each in zip((weight, bias), found, strict=True):
                if parameter is not None:
                    yield parameter, Formed(each)

        watched: Tensor = tape.watch(output, (weight, bias), uses)
        return watched


def _of_channels(
    inputs: Tensor, gradient: Tensor, mean: Tensor, rstd: Tensor, size: tuple[int, int, int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias for each record, shape (n, channels) each.

    PyTorch's own kernel finds them, where all records' channels are the channels of one record.
    """
    records, channels, places, groups = size
    one = (1, records * channels, places)
    _, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
        gradient.view(one), inputs.view(one), mean.view(1, -1), rstd.view(1, -1),
        inputs.new_ones(records * channels), *one, records * groups, [False, True, True],
    )  # fmt: skip
    return of_weight.view(records, channels), of_bias.view(records, channels)


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
