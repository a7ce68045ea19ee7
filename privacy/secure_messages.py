"""What hospitals and aggregator say to each other in secure aggregation, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedward.privacy.advert import Advert
from fedward.study.messages import Masked as Masked
from fedward.study.messages import Unmasking as Unmasking
from fedward.study.messages import Words as Words


@dataclass(frozen=True)
class Attempt:
    """One attempt at one round: what every hospital's masks are bound to.

    Attributes:
        study: Digest of the study.
        run: Name of the run.
        round: From 1.
        attempt: From 1; a repeated round counts up.
        told: Digest of the request that this hospital was given: its model, its parts, its layout.
            A hospital computes it from what it received, so hospitals that were told different
            things have different masks, and a lie makes noise instead of a leak (Pasquini, Francati
            and Ateniese 2022).
        adverts: The adverts of the invited hospitals (U).
    """

    study: str
    run: str
    round: int
    attempt: int
    told: bytes
    adverts: tuple[Advert, ...]

    @property
    def invited(self) -> tuple[str, ...]:
        """Names of the invited hospitals, sorted."""
        return tuple(sorted(advert.hospital for advert in self.adverts))


@dataclass(frozen=True)
class UnmaskRequest:
    """What the aggregator asks of a survivor.

    Attributes:
        attempt: The attempt to unmask.
        survivors: The hospitals whose masked vectors were added up (V).
        shares: The sealed shares that survivors in its closed neighbourhood addressed to this one,
            by their sender.
    """

    attempt: Attempt
    survivors: tuple[str, ...]
    shares: Mapping[str, bytes]
