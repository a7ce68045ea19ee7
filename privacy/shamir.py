"""Dividing a secret among holders so that any t of them have it and fewer have nothing.

Shamir 1979, "How to share a secret", over the integers modulo the prime 2**256 + 297, the smallest
above every 32-byte secret. Share x is f(x) for a polynomial f of degree t - 1 with f(0) = secret
and otherwise uniform coefficients. Nothing here shows that a holder gave back its true share.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from functools import lru_cache

from fedward.privacy.protocol_errors import BadShare

_PRIME = 2**256 + 297
_SECRET_SIZE = 32
_X_SIZE = 2
_MOST_HOLDERS = 2 ** (8 * _X_SIZE) - 1

SHARE_SIZE = _X_SIZE + 33
"""Bytes of a share: x, then y, both big-endian."""


def split(secret: bytes, *, threshold: int, holders: int) -> list[bytes]:
    """Shares of a secret, for the holders x = 1, 2, ... in this order.

    Args:
        secret: 32 bytes.
        threshold: Shares that rebuild it; 1 <= threshold <= holders.
        holders: At most 65535.

    Returns:
        `holders` shares of `SHARE_SIZE` bytes.

    Raises:
        ValueError: An argument is out of range.
    """
    if len(secret) != _SECRET_SIZE:
        raise ValueError(f"a secret has {_SECRET_SIZE} bytes, not {len(secret)}")
    if not 1 <= threshold <= holders <= _MOST_HOLDERS:
        raise ValueError(f"cannot share among {holders} so that {threshold} rebuild")
    others = [secrets.randbelow(_PRIME) for _ in range(threshold - 1)]
    return _evaluate([int.from_bytes(secret, "big"), *others], holders)


def combine(shares: Sequence[bytes], *, threshold: int) -> bytes:
    """The secret, from the `threshold` shares with the smallest x.

    Args:
        shares: In any order; the same share may come twice.
        threshold: As it was split with, 1 to 65535.

    Returns:
        32 bytes. Another secret, unnoticed, if one of the shares used is a well-formed lie.

    Raises:
        BadShare: A share is malformed, two contradict each other, they are too few, or what they
            rebuild is no 32-byte secret.
        ValueError: The threshold is out of range.
    """
    if not 1 <= threshold <= _MOST_HOLDERS:
        raise ValueError(f"a threshold lies in 1 to {_MOST_HOLDERS}, not {threshold}")
    points = _points(shares)
    if len(points) < threshold:
        raise _bad()
    secret = _at_zero(sorted(points.items())[:threshold])
    if secret >= 1 << (8 * _SECRET_SIZE):
        raise _bad()
    return secret.to_bytes(_SECRET_SIZE, "big")


def _evaluate(coefficients: Sequence[int], holders: int) -> list[bytes]:
    shares = []
    for x in range(1, holders + 1):
        y = 0
        for coefficient in reversed(coefficients):
            y = y * x + coefficient  # grows by the few bits of x: one division at the end will do
        y %= _PRIME
        shares.append(x.to_bytes(_X_SIZE, "big") + y.to_bytes(SHARE_SIZE - _X_SIZE, "big"))
    return shares


def _points(shares: Iterable[bytes]) -> dict[int, int]:
    points: dict[int, int] = {}
    for share in shares:
        x = int.from_bytes(share[:_X_SIZE], "big")
        y = int.from_bytes(share[_X_SIZE:SHARE_SIZE], "big")
        if len(share) != SHARE_SIZE or x == 0 or y >= _PRIME or points.setdefault(x, y) != y:
            raise _bad()
    return points


def _at_zero(points: Sequence[tuple[int, int]]) -> int:
    weights = _weights(tuple(x for x, _ in points))
    return sum(weight * y for weight, (_, y) in zip(weights, points, strict=True)) % _PRIME


@lru_cache(maxsize=8)  # the same holders answer for all the secrets of a round
def _weights(xs: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's: what each holder's y counts for in the value at zero."""
    weights = []
    for x in xs:
        above, below = 1, 1
        for other in xs:
            if other != x:
                above = above * other % _PRIME
                below = below * (other - x) % _PRIME
        weights.append(above * pow(below, -1, _PRIME) % _PRIME)
    return tuple(weights)


def _bad() -> BadShare:
    return BadShare("shares rebuild no secret", todo="the round must be tried again")
