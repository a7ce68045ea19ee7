"""One use of a parameter in a pass: its gradient for each record, in factors or as it is.

A layer that multiplies by a matrix has the gradient sum_t g_t a_t' at positions t (time, pixels),
with its inputs a and the gradients g of its outputs. The gradient of a patient with more records
has more positions. It need not be formed to know its norm:
|sum_t g_t a_t'|^2 = sum_ts (g_t . g_s) (a_t . a_s), a Gram product (Goodfellow 2015; Li et al.
2021; Bu et al. 2022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fedward.privacy.gradients.patients import Patients


class Extent(NamedTuple):
    """How large the factors of one use are.

    Attributes:
        groups: Products beside each other.
        positions: Of one record.
        out: Length of a row on the left; 1 where there is one place only.
        into: Length of a row on the right.
        quick: Multiplications by which a gradient is formed in the time of one of a Gram product.
    """

    groups: int
    positions: int
    out: int
    into: int
    quick: int = 1


class Use(ABC):
    """What one use adds to the gradients of one parameter."""

    @property
    @abstractmethod
    def records(self) -> int:
        """Entries that are kept apart."""

    @property
    @abstractmethod
    def kept(self) -> int:
        """Numbers that it holds."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are."""

    @abstractmethod
    def part(self, where: slice | Tensor) -> Use:
        """The use by some of the records."""

    @abstractmethod
    def formed(self, patients: Patients) -> Tensor:
        """Each patient's gradient, shape (patients, *shape)."""

    @abstractmethod
    def summed(self, factors: Tensor) -> Tensor:
        """Sum over the records, each times its factor, shape (*shape).

        Args:
            factors: Shape (n,).
        """

    @property
    def extent(self) -> Extent | None:
        """Of its factors, if it has any."""
        return None

    def product(self) -> Product:
        """The use in factors.

        Raises:
            TypeError: It has none.
        """
        raise TypeError(f"a {type(self).__name__} has no factors")


@dataclass(frozen=True, eq=False)
class Formed(Use):
    """A small gradient that is there for each record: of a bias or of a norm layer.

    Attributes:
        values: Shape (n, *shape).
    """

    values: Tensor

    @property
    def records(self) -> int:
        """Entries that are kept apart."""
        return len(self.values)

    @property
    def kept(self) -> int:
        """Numbers that it holds."""
        return self.values.numel()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.values.device

    def part(self, where: slice | Tensor) -> Formed:
        """The use by some of the records."""
        return Formed(self.values[where])

    def formed(self, patients: Patients) -> Tensor:
        """Each patient's gradient, shape (patients, *shape)."""
        return patients.added(self.values)

    def summed(self, factors: Tensor) -> Tensor:
        """Sum over the records, each times its factor, shape (*shape)."""
        summed: Tensor = torch.tensordot(factors, self.values, dims=1)
        return summed


@dataclass(frozen=True, eq=False)
class Product(Use):
    """sum_t left_t right_t', apart for each record and group.

    Attributes:
        left: Gradients of outputs, shape (n, groups, positions, out); or the places of the only 1
            in each, (n, 1, positions), int64.
        right: Inputs, shape (n, groups, positions, into).
        shape: Of the parameter.
    """

    left: Tensor
    right: Tensor
    shape: torch.Size

    @property
    def records(self) -> int:
        """Entries that are kept apart."""
        return len(self.left)

    @property
    def kept(self) -> int:
        """Numbers that it holds."""
        return self.left.numel() + self.right.numel()

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self.right.device

    @property
    def extent(self) -> Extent:
        """Of its factors."""
        _, groups, positions, into = self.right.shape
        return Extent(groups, positions, 1 if self.one_hot else self.left.shape[3], into)

    @property
    def one_hot(self) -> bool:
        """Of the left there are places only."""
        return not self.left.is_floating_point()

    def product(self) -> Product:
        """The use in factors."""
        return self

    def part(self, where: slice | Tensor) -> Product:
        """The use by some of the records."""
        return replace(self, left=self.left[where], right=self.right[where])

    def joined(self, patients: Patients) -> Product:
        """A patient's records as positions of one example."""
        return replace(self, left=patients.joined(self.left), right=patients.joined(self.right))

    def formed(self, patients: Patients) -> Tensor:
        """Each patient's gradient, shape (patients, *shape)."""
        if patients.sparse:
            return patients.added(self._formed())
        return self.joined(patients)._formed()

    def _formed(self) -> Tensor:
        if not self.one_hot:
            return (self.left.mT @ self.right).reshape(-1, *self.shape)
        rows = torch.arange(self.records, device=self.left.device)[:, None] * self.shape[0]
        formed = self.right.new_zeros(self.records * self.shape[0], self.shape[1])
        formed.index_add_(0, (self.left[:, 0] + rows).flatten(), self.right.flatten(0, 2))
        return formed.view(-1, *self.shape)

    def summed(self, factors: Tensor) -> Tensor:
        """Sum over the records, each times its factor, shape (*shape)."""
        if self.one_hot:
            scaled = (self.right * factors.view(-1, 1, 1, 1)).flatten(0, 2)
            return self.right.new_zeros(self.shape).index_add_(0, self.left.flatten(), scaled)
        scaled = self.left * factors.view(-1, 1, 1, 1)
        groups = [side.transpose(0, 1).flatten(1, 2) for side in (scaled, self.right)]
        return (groups[0].mT @ groups[1]).reshape(self.shape)


def merged(uses: Sequence[Use]) -> list[Use]:
    """The same uses, as few as possible: a layer that is used in each of many steps is one."""
    dense = [u for u in uses if isinstance(u, Product) and not u.one_hot]
    alike = {(u.left.shape[:2], u.left.shape[3:], u.right.shape[3:]) for u in dense}
    if len(dense) < 2 or len(alike) > 1:
        return list(uses)
    one = replace(
        dense[0],
        left=torch.cat([u.left for u in dense], dim=2),
        right=torch.cat([u.right for u in dense], dim=2),
    )
    return [one, *(u for u in uses if u not in dense)] if len(dense) < len(uses) else [one]


def squares_by_gram(products: Sequence[Product], patients: Patients) -> Tensor:
    """Squared norm of each patient's gradient, not formed, shape (patients,), float64.

    In double precision: where positions cancel, the norm is the root of what is left of much larger
    numbers, and in float32 a patient's norm could be missed by a root of its precision; and the
    square of a small side would be 0, whatever the other side is.
    """
    if patients.most * sum(p.extent.positions for p in products) == 1 and not products[0].one_hot:
        sides = (products[0].left, products[0].right)
        one, other = (side.double().square().sum(dim=(2, 3)) for side in sides)
        return (one * other).sum(dim=1)
    joined = [_doubled(product.joined(patients)) for product in products]
    total = torch.zeros(patients.number, dtype=torch.float64, device=joined[0].right.device)
    for number, one_use in enumerate(joined):
        for other_use in joined[number:]:
            both = _inner(one_use, other_use) * (one_use.right @ other_use.right.mT)
            total += both.sum(dim=(1, 2, 3)) * (1 if one_use is other_use else 2)
    return total.clamp(min=0)


def _doubled(product: Product) -> Product:
    left = product.left if product.one_hot else product.left.double()
    return replace(product, left=left, right=product.right.double())


def _inner(one: Product, other: Product) -> Tensor:
    """Inner products of the left rows of both, shape (patients, groups, positions, positions)."""
    if one.one_hot and other.one_hot:
        return (one.left[..., :, None] == other.left[..., None, :]).double()
    if other.one_hot:
        places = other.left[:, :, None, :].expand(-1, -1, one.left.shape[2], -1)
        return one.left.gather(3, places)
    if one.one_hot:
        return _inner(other, one).mT
    return one.left @ other.left.mT
