"""What the patients add to one parameter's gradient, from its uses to the clipped sum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedward.privacy.gradients.patients import Patients
from fedward.privacy.gradients.uses import Extent, Use, merged, squares_by_gram

_AT_ONCE = 2**24  # numbers of patients' gradients, or of inner products, at the same time
_IN_CACHE = 2**19  # the same on a processor, where they are looked at once and not kept
_MOVED = 24  # multiplications in the time in which a number is written and read again


@dataclass(frozen=True)
class Contribution:
    """Of all patients to one parameter, or to several small ones.

    Attributes:
        squares: Squared norm of each patient's gradient, shape (patients,), float64.
        formed: Each patient's gradient, (patients, *shape), where it is kept; of several
            parameters all their numbers in a row.
        uses: What it follows from, where it is not.
    """

    squares: Tensor
    formed: Tensor | None
    uses: Sequence[Use]

    def clipped(self, factors: Tensor, patients: Patients, finite: Tensor | None) -> Tensor:
        """Sum over patients, each times its factor.

        Args:
            factors: Shape (patients,), float64.
            patients: Whose the records are.
            finite: Which patients count, shape (patients,), bool; None for everybody. Zero times
                what is not finite would not be zero.
        """
        if self.formed is not None:
            formed = self.formed if finite is None else self.formed[finite]
            factors = factors if finite is None else factors[finite]
            summed = factors.to(formed) @ formed.flatten(1)
            return summed.view(formed.shape[1:])
        each, uses = patients.each(factors), self.uses
        if finite is not None:
            there = patients.each(finite).nonzero().flatten()
            each, uses = each[there], [use.part(there) for use in uses]
        sums = [use.summed(each) for use in uses]
        return torch.stack(sums).sum(dim=0) if len(sums) > 1 else sums[0]


def bundle_of(formed: Sequence[Tensor]) -> Contribution:
    """Put the patients' gradients of several parameters together.

    Args:
        formed: Of each, shape (patients, *shape).
    """
    whole = torch.cat([each.flatten(1) for each in formed], dim=1)
    return Contribution(_squares(whole), whole, [])


def contribution_of(uses: Sequence[Use], patients: Patients, size: int) -> Contribution:
    """Put one parameter's uses together, by the cheaper way to the norms.

    Args:
        uses: All of this parameter in the pass.
        patients: Whose the records are.
        size: Numbers of the parameter.
    """
    uses = merged(uses)
    extents = [extent for use in uses if (extent := use.extent) is not None]
    device = uses[0].device
    if len(extents) == len(uses) and _gram_is_cheaper(extents, patients, size, device):
        rows = patients.most * sum(extent.positions for extent in extents)
        some = max(1, _AT_ONCE // (extents[0].groups * rows**2))
        squares = [
            squares_by_gram([use.part(where).product() for use in uses], part)
            for where, part in patients.parts(some)
        ]
        return Contribution(torch.cat(squares), None, uses)
    keep = patients.number * size <= sum(use.kept for use in uses)
    found, formed = [], []
    numbers = _IN_CACHE if device.type == "cpu" and not keep else _AT_ONCE
    for where, part in patients.parts(max(1, numbers // size)):
        here = uses if part.number == patients.number else [use.part(where) for use in uses]
        each = here[0].formed(part)
        for use in here[1:]:
            each = each + use.formed(part)
        found.append(_squares(each))
        if keep:
            formed.append(each)
    whole = None if not keep else formed[0] if len(formed) == 1 else torch.cat(formed)
    return Contribution(torch.cat(found), whole, [] if keep else uses)


def _squares(each: Tensor) -> Tensor:
    """Of each patient's gradient; infinite where a float32 norm's square would be."""
    norms: Tensor = torch.linalg.vector_norm(each.flatten(1), dim=1)
    return norms.square().double()


def _gram_is_cheaper(
    extents: Sequence[Extent], patients: Patients, size: int, device: torch.device
) -> bool:
    """Whether Gram products (in double precision) take less time than forming gradients."""
    rows = patients.most * sum(extent.positions for extent in extents)
    if device.type == "mps":  # has no double precision
        return False
    groups, _, _, into, quick = extents[0]
    if rows == 1:
        return True
    out = max(extent.out for extent in extents)
    gram = groups * rows * rows * (2 * (out + into) + _MOVED)
    form = rows * groups * out * into + _MOVED * size
    return gram * quick < form
