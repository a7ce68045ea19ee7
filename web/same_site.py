"""Whether a request to this machine comes from its own page."""

from __future__ import annotations

from collections.abc import Collection, Mapping

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names that a browser has for its own machine."""


def name_of(header: bytes) -> str:
    """The name in the header `Host`, without the port."""
    text = header.decode("latin-1").lower()
    name, colon, port = text.rpartition(":")
    return name if colon and port.isdigit() else text


def is_other_name(headers: Mapping[bytes, bytes], names: Collection[str]) -> bool:
    """Whether the service was called by a name that is not its own.

    A page of somebody else's that a browser took to this machine (DNS rebinding) does.
    """
    return name_of(headers.get(b"host", b"")) not in names


def is_other_site(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another origin asks, as the header `Origin` says."""
    origin, host = headers.get(b"origin"), headers.get(b"host", b"").lower()
    return origin is not None and (not host or origin.lower().partition(b"://")[2] != host)
