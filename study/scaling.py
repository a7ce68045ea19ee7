"""Scaling constants that a study measures: public, and the same at every hospital."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedward.study.data import Data


@dataclass(frozen=True)
class Scaling:
    """A center and a scale for each measured feature, in the study's order.

    Attributes:
        centers: Subtracted from a value.
        scales: Divided by, after that.
    """

    centers: tuple[float, ...]
    scales: tuple[float, ...]

    def fault(self, data: Data) -> str:
        """What is impossible about these constants for such data; empty if nothing is."""
        wanted = data.measured
        if not len(self.centers) == len(self.scales) == len(wanted):
            return f"constants for {len(wanted)} measured features are wanted"
        for feature, center, scale in zip(wanted, self.centers, self.scales, strict=True):
            if not feature.low <= center <= feature.high:  # nor is NaN
                return f"a center of {feature.name!r} that is not within its bounds"
            if not 0 < scale < math.inf:
                return f"a scale of {feature.name!r} that is not above 0 and finite"
        return ""

    def named(self, data: Data) -> dict[str, dict[str, float]]:
        """Center and scale by the feature's name."""
        each = zip(data.measured, self.centers, self.scales, strict=True)
        return {m.name: {"center": center, "scale": scale} for m, center, scale in each}
