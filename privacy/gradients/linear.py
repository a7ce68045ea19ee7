"""Linear layers: inputs and output gradients are the factors of the gradient."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from fedward.privacy.gradients.rule import Watched
from fedward.privacy.gradients.uses import Formed, Product, Use


def linear_uses(
    weight: Tensor | None, bias: Tensor | None, inputs: Tensor, gradient: Tensor
) -> Iterator[tuple[Tensor, Use]]:
    """The uses of a matrix and its bias.

    Args:
        weight: Shape (out, into), or None.
        bias: Shape (out,), or None.
        inputs: Shape (n, ..., into).
        gradient: Of the outputs, shape (n, ..., out).
    """
    records = len(gradient)
    left = gradient.reshape(records, 1, -1, gradient.shape[-1])
    if weight is not None:
        right = inputs.reshape(records, 1, -1, inputs.shape[-1])
        yield weight, Product(left, right, weight.shape)
    if bias is not None:
        yield bias, Formed(left.sum(dim=(1, 2)))


class LinearRule(Watched):
    """nn.Linear over any positions between the records and the features."""

    kinds = (nn.Linear,)

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """Of weight and bias."""
        assert isinstance(layer, nn.Linear)  # noqa: S101 - the kind that it is for
        yield from linear_uses(layer.weight, layer.bias, inputs, gradient)
