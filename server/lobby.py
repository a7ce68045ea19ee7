"""Who may stay connected to the public port: hospitals, and for a moment those not yet known.

Strangers and hospitals do not share places, so that no number of strangers keeps a hospital from
going on; and strangers from one address leave places for those from others.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter

from fedward.server.http_sides import Limits


class Lobby:
    """The places of a gate.

    Args:
        limits: How many there are.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.strangers: Counter[str] = Counter()
        self.admitted = 0

    def enter(self, network: str) -> Visit | None:
        """A place for a stranger, or None if there is none.

        Args:
            network: Where it comes from.
        """
        if (
            self.strangers.total() >= self.limits.strangers
            or self.strangers[network] >= self.limits.strangers_each
        ):
            return None
        self.strangers[network] += 1
        return Visit(self, network)


class Visit:
    """One connection's place, first among the strangers."""

    def __init__(self, lobby: Lobby, network: str) -> None:
        self._lobby = lobby
        self._network: str | None = network

    def admit(self) -> bool:
        """Move to the hospitals' places; returns whether the caller has one there."""
        if self._network is None:
            return True
        if self._lobby.admitted >= self._lobby.limits.connections:
            return False
        self._leave_strangers(self._network)
        self._lobby.admitted += 1
        return True

    def leave(self) -> None:
        """Give the place back."""
        if self._network is None:
            self._lobby.admitted -= 1
        else:
            self._leave_strangers(self._network)

    def _leave_strangers(self, network: str) -> None:
        self._network = None
        self._lobby.strangers[network] -= 1
        if not self._lobby.strangers[network]:
            del self._lobby.strangers[network]


def network_of(writer: asyncio.StreamWriter) -> str:
    """Where a connection comes from: its address, or of IPv6 the part that one customer has."""
    peer = writer.get_extra_info("peername")
    if not peer:
        return ""
    address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
