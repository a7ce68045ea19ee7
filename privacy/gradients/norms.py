"""Norm layers: what they normalise is computed again, and is small beside what lies around them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.instancenorm import _InstanceNorm

from fedward.privacy.gradients.rule import Watched
from fedward.privacy.gradients.uses import Formed, Use


class NormRule(Watched):
    """Group, layer, instance and root-mean-square norms."""

    kinds = (
        nn.GroupNorm,
        nn.LayerNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.RMSNorm,
    )

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[nn.Parameter, Use]]:
        """Of weight and bias, each where it is there."""
        if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
            last = gradient.ndim - len(layer.normalized_shape)
            places = tuple(range(1, last))
        else:
            places = tuple(range(2, gradient.ndim))
        weight, bias = (cast("nn.Parameter | None", getattr(layer, n, None)) for n in _NAMES)
        if weight is not None and weight.requires_grad:
            products = gradient * _normalised(layer, inputs)
            yield weight, Formed(products.sum(dim=places) if places else products)
        if bias is not None and bias.requires_grad:
            yield bias, Formed(gradient.sum(dim=places) if places else gradient)


_NAMES = ("weight", "bias")


def _normalised(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The layer's output before weight and bias."""
    if isinstance(layer, nn.GroupNorm):
        return functional.group_norm(inputs, layer.num_groups, eps=layer.eps)
    if isinstance(layer, nn.LayerNorm):
        return functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
    if isinstance(layer, nn.RMSNorm):
        return functional.rms_norm(inputs, list(layer.normalized_shape), eps=layer.eps)
    assert isinstance(layer, _InstanceNorm)  # noqa: S101 - the last of the kinds
    return functional.instance_norm(inputs, eps=layer.eps)
