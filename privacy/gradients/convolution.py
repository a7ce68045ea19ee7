"""Convolutions: the kernel's gradient of each record, by the vendor's kernels where they are quick.

On a processor a convolution whose groups are the records finds all of them at once. Elsewhere the
input is unfolded into patches, and a convolution is a linear layer over them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.rule import Watched
from fedward.privacy.gradients.uses import Extent, Formed, Product, Use

_QUICK = 3  # measured: a Gram product's patches are laid out and widened before


class ConvolutionRule(Watched):
    """nn.Conv1d, 2d and 3d with any stride, padding, dilation and groups."""

    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def uses(
        self, layer: nn.Module, inputs: Tensor, gradient: Tensor
    ) -> Iterator[tuple[Tensor, Use]]:
        """Of kernel and bias."""
        assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)  # noqa: S101 - its kinds
        if layer.weight.requires_grad:
            geometry = Geometry(layer.stride, layer.dilation, layer.groups, layer.weight.shape)
            inputs, padding = _padded(layer, inputs)
            yield layer.weight, Kernel(gradient, inputs, padding, geometry)
        if layer.bias is not None:
            yield layer.bias, Formed(gradient.flatten(2).sum(dim=2))


def _padded(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, inputs: Tensor
) -> tuple[Tensor, tuple[int, ...]]:
    """The input with its padding, unless that is even and of zeros; and what is still to pad."""
    sizes = zip(layer.kernel_size, layer.dilation, strict=True)
    if layer.padding == "same":  # of an odd number the greater half lies behind
        wide = [dilation * (size - 1) for size, dilation in sizes]
        before, behind = [w // 2 for w in wide], [w - w // 2 for w in wide]
    else:
        given = layer.padding if isinstance(layer.padding, tuple) else (0,) * len(layer.stride)
        before = behind = list(given)
    if layer.padding_mode == "zeros" and before == behind:
        return inputs, tuple(before)
    ends = [n for pair in zip(reversed(before), reversed(behind), strict=True) for n in pair]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return functional.pad(inputs, ends, mode=mode), (0,) * len(layer.stride)


@dataclass(frozen=True)
class Geometry:
    """Where a kernel lies on its input.

    Attributes:
        stride: In each dimension.
        dilation: In each dimension.
        groups: Of channels.
        shape: Of the kernel, (out, into / groups, *sizes).
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    shape: torch.Size


@dataclass(frozen=True, eq=False)
class Kernel(Use):
    """The use of a kernel.

    Attributes:
        gradient: Of the output, shape (n, out, *places).
        inputs: Shape (n, into, *sizes).
        padding: Zeros at both ends of each dimension of the inputs.
        geometry: Where the kernel lies.
    """

    gradient: Tensor
    inputs: Tensor
    padding: tuple[int, ...]
    geometry: Geometry

    @property
    def records(self) -> int:
        """Entries that are kept apart."""
        return len(self.gradient)

    @property
    def kept(self) -> int:
        """Numbers that it holds."""
        return self.gradient.numel() + self.inputs.numel()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.gradient.device

    @property
    def extent(self) -> Extent:
        """Of its factors."""
        shape, groups = self.geometry.shape, self.geometry.groups
        places = math.prod(self.gradient.shape[2:])
        quick = _QUICK if self.device.type == "cpu" else 1
        return Extent(groups, places, shape[0] // groups, math.prod(shape[1:]), quick)

    def part(self, where: slice | Tensor) -> Kernel:
        """The use by some of the records."""
        return replace(self, gradient=self.gradient[where], inputs=self.inputs[where])

    def product(self) -> Product:
        """Over patches of the input."""
        groups, places, out, into, _ = self.extent
        left = self.gradient.reshape(self.records, groups, out, places).mT
        right = self._patches().reshape(self.records, groups, into, places).mT
        return Product(left, right, self.geometry.shape)

    def formed(self, patients: Patients) -> Tensor:
        """Each patient's gradient, shape (patients, *shape)."""
        if self.device.type != "cpu":
            product = self.product()
            apart = (product.left.mT @ product.right).reshape(-1, *self.geometry.shape)
            return patients.added(apart)
        records, shape = self.records, self.geometry.shape
        kernels = self.gradient.new_empty(records * shape[0], *shape[1:])  # its size is asked for
        apart = _of_kernel(
            self.gradient.reshape(1, -1, *self.gradient.shape[2:]),
            self.inputs.reshape(1, -1, *self.inputs.shape[2:]),
            kernels,
            self.padding,
            replace(self.geometry, groups=records * self.geometry.groups),
        )
        return patients.added(apart.view(records, *shape))

    def summed(self, factors: Tensor) -> Tensor:
        """Sum over the records, each times its factor, shape (*shape)."""
        each = factors.view(-1, *[1] * (self.gradient.ndim - 1))
        kernel = self.gradient.new_empty(self.geometry.shape)
        return _of_kernel(self.gradient * each, self.inputs, kernel, self.padding, self.geometry)

    def _patches(self) -> Tensor:
        """What the kernel sees, shape (n, into, *kernel sizes, *places)."""
        ends = [n for padding in reversed(self.padding) for n in (padding, padding)]
        whole = functional.pad(self.inputs, ends).contiguous()
        records, channels, *_ = whole.shape
        steps, sizes = whole.stride()[2:], self.geometry.shape[2:]
        inside = [s * d for s, d in zip(steps, self.geometry.dilation, strict=True)]
        between = [s * d for s, d in zip(steps, self.geometry.stride, strict=True)]
        return whole.as_strided(
            (records, channels, *sizes, *self.gradient.shape[2:]),
            (*whole.stride()[:2], *inside, *between),
        )


def _of_kernel(
    gradient: Tensor, inputs: Tensor, kernel: Tensor, padding: tuple[int, ...], at: Geometry
) -> Tensor:
    """The gradient of a kernel, in the vendor's arithmetic, but not in less than its bits."""
    none = [0] * len(padding)
    exact: AbstractContextManager[object] = nullcontext()
    if gradient.is_cuda:
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with exact:
        _, found, _ = torch.ops.aten.convolution_backward(
            gradient, inputs, kernel, None, list(at.stride), list(padding), list(at.dilation),
            False, none, at.groups, [False, True, False],
        )  # fmt: skip
    whole: Tensor = found
    return whole
