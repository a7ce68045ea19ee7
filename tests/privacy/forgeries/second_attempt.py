"""The second attempt at a round among five hospitals, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedward.privacy.advert import RunKey
from fedward.privacy.identity import Identity
from fedward.privacy.secure_aggregator import SecureSum
from fedward.privacy.secure_messages import Attempt, Masked, UnmaskRequest
from tests.privacy.conftest import Consortium, Words, plain_sum

SIZE = 9
NAMES = "abcde"
LEFT = "abcd"  # e drops out; four are just enough
IDENTITY_OF_F = Identity.generate()  # a member that is not invited
KEY_OF_F = RunKey.generate()


@dataclass
class Scene:
    """The second attempt at round 3 among a to e, and what came of it."""

    consortium: Consortium
    attempt: Attempt
    data: Mapping[str, Words]
    masked: dict[str, Masked]

    def request(self, name: str = "a", survivors: str = LEFT) -> UnmaskRequest:
        shares = {sender: self.masked[sender].shares[name] for sender in survivors}
        return UnmaskRequest(self.attempt, tuple(survivors), shares)

    def mask_all(self, attempt: Attempt) -> dict[str, Masked]:
        return self.consortium.mask(attempt, self.data)

    def total(self) -> SecureSum:
        return SecureSum(self.attempt, size=SIZE, threshold=4)

    def finish(self) -> None:
        """The honest round from here on gives the sum."""
        total = self.total()
        for name in LEFT:
            total.add(name, self.masked[name])
        for name, request in total.unmask_requests().items():
            total.take(name, self.consortium[name].unmask(request))
        assert np.array_equal(total.total(), self.plain())

    def plain(self) -> Words:
        return plain_sum([self.data[name] for name in LEFT], SIZE)

    def entries(self, name: str = "a") -> bytes:
        """The journal as it lies on disk."""
        return self.consortium.journal_file(name).read_bytes()


def then_all_goes_well(scene: Scene) -> None:
    scene.masked = scene.mask_all(scene.attempt)
    scene.finish()
