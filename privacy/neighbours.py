"""Who shares masks with whom: all with all, or in large rounds each with the nearest on a ring.

Bell et al. 2020, "Secure single-server aggregation with (poly)logarithmic overhead": a regular
graph on clients in random order. Here the order comes from a hash, so that all parties compute it
alike, and nobody chooses a place except by trying.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from fedward.privacy.framing import framed
from fedward.privacy.key_schedule import round_context
from fedward.privacy.secure_messages import Attempt

_PLACE = "fedward/1/ring place"


def ring_of(attempt: Attempt) -> bytes:
    """What the order on the ring comes from: the same for all attempts at a round.

    It is the round's context with attempt 0, which no attempt has, and nothing told: whoever
    agrees on the context of an attempt agrees on the ring too. All adverts are in it, so that
    leaving out one hospital draws the order anew instead of moving two others together. It does
    not change with the attempt: the same update, masked on two rings, could be counted in by its
    neighbours on one and out by those on the other, and the two sums would subtract to it. The
    journal holds a hospital to one ring a round.

    Args:
        attempt: With the adverts of all who are invited, checked before.

    Returns:
        32 bytes.

    Raises:
        ValueError: A hospital has two adverts, or the round is out of range.
    """
    return round_context(
        study=attempt.study,
        run=attempt.run,
        round=attempt.round,
        attempt=0,
        adverts=attempt.adverts,
    )


def closed_neighbourhood(
    hospital: str, invited: Collection[str], *, ring: bytes, size: int
) -> tuple[str, ...]:
    """A hospital and its neighbours: as many on either side of the ring, or everybody.

    Who is my neighbour, has me as a neighbour.

    Args:
        hospital: One of the invited.
        invited: Names, in any order, none twice.
        ring: From `ring_of`.
        size: Names to return; odd, unless it is at least as large as the number of the invited.

    Returns:
        Names, sorted.

    Raises:
        ValueError: The hospital is not invited, or the size is even.
    """
    if hospital not in invited:
        raise ValueError(f"{hospital} is not among the invited")
    if size >= len(invited):
        return tuple(sorted(invited))
    order = _order(invited, ring)
    return _window(order, order.index(hospital), size)


def closed_neighbourhoods(
    invited: Collection[str], *, ring: bytes, size: int
) -> dict[str, tuple[str, ...]]:
    """The closed neighbourhood of each of the invited, for the cost of one sorting.

    Args:
        invited: Names, in any order, none twice.
        ring: From `ring_of`.
        size: As for `closed_neighbourhood`.

    Raises:
        ValueError: The size is even.
    """
    if size >= len(invited):
        everybody = tuple(sorted(invited))
        return dict.fromkeys(everybody, everybody)
    order = _order(invited, ring)
    return {hospital: _window(order, at, size) for at, hospital in enumerate(order)}


def _order(invited: Collection[str], ring: bytes) -> list[str]:
    """Round the ring, by SHA-256 of the framed label, ring and name."""
    return sorted(invited, key=lambda name: hashlib.sha256(framed(_PLACE, ring, name)).digest())


def _window(order: Sequence[str], at: int, size: int) -> tuple[str, ...]:
    if size % 2 == 0:
        raise ValueError(f"a neighbourhood reaches as far on either side; {size} is even")
    reach = size // 2
    return tuple(sorted(order[(at + i) % len(order)] for i in range(-reach, reach + 1)))
