"""The aggregator's side of secure aggregation: adds masked vectors up, and then takes masks away.

It holds one running sum, never two hospitals' vectors. It is trusted for availability only: every
rule that protects a hospital is checked by the hospitals.
"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np

from fedward.privacy.key_stream import SEED_SIZE
from fedward.privacy.masks import add_masks
from fedward.privacy.neighbours import closed_neighbourhoods, ring_of
from fedward.privacy.protocol_errors import BadShare, TooFew
from fedward.privacy.secure_messages import Attempt, Masked, Unmasking, UnmaskRequest, Words
from fedward.privacy.shamir import combine
from fedward.study.threshold import neighbourhood


class SecureSum:
    """One attempt at one round's sum."""

    def __init__(
        self, attempt: Attempt, *, size: int, threshold: int, nearby: int | None = None
    ) -> None:
        """Start from zero.

        Args:
            attempt: Whom is asked. What they are told does not matter here.
            size: Length of the vectors.
            threshold: Shares that rebuild a self mask, and the fewest survivors nearby (t).
            nearby: Hospitals in a closed neighbourhood (m), if not as many as every study has.
        """
        self._nearby = neighbourhood(len(attempt.adverts)) if nearby is None else nearby
        ring = ring_of(attempt)
        self._near = closed_neighbourhoods(attempt.invited, ring=ring, size=self._nearby)
        self._attempt = attempt
        self._threshold = threshold
        self._words: Words = np.zeros(size, dtype=np.uint32)
        self._shares: dict[str, dict[str, bytes]] = {}
        self._commitments: dict[str, bytes] = {}
        self._answers: dict[str, Unmasking] = {}
        self._asked = False
        self._unmasked = False

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose vectors are in the sum."""
        return tuple(sorted(self._shares))

    def add(self, hospital: str, masked: Masked) -> None:
        """Add one hospital's masked vector; the vector is not kept.

        Raises:
            BadShare: The hospital was not invited, answered before or when the survivors had been
                asked to unmask, its shares are not for its closed neighbourhood, or its vector is
                of another kind; the sum is unchanged.
        """
        if hospital not in self._near or hospital in self._shares or self._asked:
            raise BadShare(
                f"{hospital} is not invited, answered twice or too late", todo="leave it out"
            )
        words = masked.words
        if words.shape != self._words.shape or words.dtype != self._words.dtype:
            raise BadShare(f"{hospital} sent another kind of vector", todo="leave it out")
        if set(masked.shares) != set(self._near[hospital]):
            raise BadShare(f"{hospital} sent shares for others", todo="leave it out")
        np.add(self._words, masked.words, out=self._words)
        self._shares[hospital] = dict(masked.shares)
        self._commitments[hospital] = masked.commitment

    def unmask_requests(self) -> dict[str, UnmaskRequest]:
        """What to ask of each survivor; from then on the survivors are settled.

        Raises:
            TooFew: Too few survived for all to answer, or to rebuild all self masks.
        """
        survivors = self.survivors
        fewest = min((len(self._left(name)) for name in survivors), default=0)
        if fewest < self._threshold:
            raise TooFew(
                f"{fewest} hospitals of {self._nearby} answered, {self._threshold} are needed",
                todo="repeat the round",
            )
        self._asked = True
        return {
            holder: UnmaskRequest(
                self._attempt,
                survivors,
                {sender: self._shares[sender][holder] for sender in self._left(holder)},
            )
            for holder in survivors
        }

    def take(self, hospital: str, answer: Unmasking) -> None:
        """Keep one survivor's answer.

        Raises:
            BadShare: It is no survivor's, or not about its neighbours that survived and those that
                dropped out.
        """
        if hospital not in self._shares or hospital in self._answers:
            raise BadShare(f"{hospital} was not asked to unmask", todo="leave it out")
        left, dropped = set(self._left(hospital)), set(self._dropped(hospital))
        if set(answer.self_shares) != left or set(answer.pair_seeds) != dropped:
            raise BadShare(f"{hospital} sent other shares than asked", todo="leave it out")
        if any(len(seed) != SEED_SIZE for seed in answer.pair_seeds.values()):
            raise BadShare(f"{hospital} sent what is no seed", todo="leave it out")
        self._answers[hospital] = answer

    def total(self) -> Words:
        """The sum over the survivors, shape (size,), uint32; the same array each time.

        Raises:
            TooFew: Too few answered to rebuild a self mask, or a survivor is silent while a
                neighbour had dropped: its pair masks with that one cannot be taken away.
            BadShare: The shares do not fit together.
        """
        if self._unmasked:
            return self._words
        if not self._shares or not all(self._can_be_unmasked(name) for name in self._shares):
            raise TooFew(
                f"{len(self._answers)} of {len(self.survivors)} survivors helped to unmask",
                todo="repeat the round",
            )
        masks = [(self._self_seed(name), -1) for name in self.survivors]
        for survivor, answer in self._answers.items():
            # The survivor added it if its name comes first; taking it away is the opposite.
            masks += [
                (answer.pair_seeds[name], -1 if survivor < name else 1)
                for name in self._dropped(survivor)
            ]
        add_masks(self._words, masks)
        self._unmasked = True
        return self._words

    def _left(self, hospital: str) -> list[str]:
        """The survivors in a closed neighbourhood."""
        return [name for name in self._near[hospital] if name in self._shares]

    def _dropped(self, hospital: str) -> list[str]:
        return [name for name in self._near[hospital] if name not in self._shares]

    def _helpers(self, hospital: str) -> list[str]:
        """Those in a closed neighbourhood who answered."""
        return [name for name in self._near[hospital] if name in self._answers]

    def _can_be_unmasked(self, survivor: str) -> bool:
        if self._dropped(survivor) and survivor not in self._answers:
            return False
        return len(self._helpers(survivor)) >= self._threshold

    def _self_seed(self, hospital: str) -> bytes:
        shares = [self._answers[name].self_shares[hospital] for name in self._helpers(hospital)]
        seed = combine(shares, threshold=self._threshold)
        if not hmac.compare_digest(hashlib.sha256(seed).digest(), self._commitments[hospital]):
            raise BadShare(f"shares of {hospital} are false", todo="repeat the round")
        return seed
