"""The time that a hospital signs its requests with, to show that they are its own and new.

Nothing here is Flower's.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import NamedTuple

import httpx
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from fedward.client.fleet_trouble import MOST_FOLLOWED, clock_ahead

_SIGNATURE_LASTS = 5.0  # seconds; it covers the time alone, so several requests can share one


class Signed(NamedTuple):
    """A time and its signature.

    Attributes:
        at: When it was signed, in seconds since 1970 by the clock that is gone by.
        said: The time, as it is sent.
        signature: ECDSA with SHA-256 over `said`.
        ahead: Seconds by which this machine's clock was taken to be ahead.
    """

    at: float
    said: str
    signature: bytes
    ahead: float


class SignedTime:
    """Times signed with one key, by a clock that the aggregator's may put right."""

    def __init__(
        self,
        key: ec.EllipticCurvePrivateKey,
        now: Callable[[], float],
        *,
        tolerance: float,
        backdated: float,
    ) -> None:
        """Nothing is signed yet.

        Args:
            key: This hospital's transport key.
            now: Gives the seconds since 1970 by this machine's clock.
            tolerance: Seconds that the two clocks may differ by.
            backdated: Seconds that a signed time lies in the past.
        """
        self._key = key
        self._now = now
        self._tolerance = tolerance
        self._backdated = backdated
        self._ahead = 0.0  # seconds of this machine's clock, once the aggregator said so
        self._signed: Signed | None = None

    def signed(self) -> Signed:
        """The time that the next request is signed with."""
        now, signed = self._now() - self._ahead, self._signed
        if signed is None or not 0 <= now - signed.at < _SIGNATURE_LASTS:
            then = datetime.datetime.fromtimestamp(now - self._backdated, tz=datetime.UTC)
            said = then.isoformat()
            signature = self._key.sign(said.encode("ascii"), ec.ECDSA(hashes.SHA256()))
            self._signed = signed = Signed(now, said, signature, self._ahead)
        return signed

    def follow(self, refusal: httpx.Response) -> None:
        """Sign the next requests with the aggregator's time if the two clocks differ too much.

        Who answers has shown the consortium's certificate, and is who checks the signed time; it
        gains nothing by lying. A clock that is days off is put right by nobody but a person.
        """
        ahead = clock_ahead(refusal, self._now())
        if ahead is not None and abs(ahead) <= MOST_FOLLOWED:
            self._ahead = ahead if abs(ahead) >= self._tolerance - 1 else 0.0
            self._signed = None
